"""Events in the shapes of https://docs.stripe.com/api/events/object, and their processing."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import orjson

from engine_server.connectors.stripe.api.client import StripeClient
from engine_server.connectors.stripe.catalog.streams import api_version, load_resources
from engine_server.connectors.stripe.events.event_batches import process_events
from engine_server.connectors.stripe.events.failed_events import FailedEvents
from engine_server.connectors.stripe.events.failure import EventFailed
from engine_server.connectors.stripe.events.scope import EventScope, Revalidated
from pipesync.v1.message_pb2 import Message

Document = dict[str, Any]

ACCOUNT = "acct_simulator"
NOW = 1_760_000_000
CUSTOMER: Document = {
    "id": "cus_1",
    "object": "customer",
    "created": NOW - 9,
    "balance": 0,
    "name": "Ada",
}

_numbers = itertools.count(1)


def event(
    event_type: str,
    about: Document,
    *,
    created: int = NOW,
    previous: Document | None = None,
    **fields: Any,
) -> Document:
    """Return a snapshot event; ``fields`` replace its own."""
    data: Document = {"object": about}
    if previous is not None:
        data["previous_attributes"] = previous
    return {
        "id": f"evt_{next(_numbers)}",
        "object": "event",
        "api_version": api_version(),
        "created": created,
        "data": data,
        "livemode": False,
        "pending_webhooks": 1,
        "request": {"id": "req_1", "idempotency_key": None},
        "type": event_type,
        **fields,
    }


def thin(
    event_type: str,
    object_type: str,
    object_id: str,
    url: str,
    *,
    created: str = "2025-10-09T08:53:20.482Z",
    **fields: Any,
) -> Document:
    """Return a thin event, which names its object."""
    return {
        "id": f"evt_test_{next(_numbers)}",
        "object": "v2.core.event",
        "created": created,
        "context": None,
        "livemode": False,
        "reason": None,
        "related_object": {"id": object_id, "type": object_type, "url": url},
        "type": event_type,
        **fields,
    }


def whole_list(url: str, items: Sequence[Document]) -> Document:
    """Return a list inside an object with all its items."""
    return {
        "object": "list",
        "data": list(items),
        "has_more": False,
        "total_count": len(items),
        "url": url,
    }


def item(item_id: str, subscription_id: str = "sub_1", **fields: Any) -> Document:
    """Return a subscription item."""
    return {
        "id": item_id,
        "object": "subscription_item",
        "created": NOW - 100,
        "metadata": {},
        "price": {"id": "price_1", "object": "price", "unit_amount": 2000},
        "quantity": 1,
        "subscription": subscription_id,
        **fields,
    }


def subscription(*items: Document, subscription_id: str = "sub_1", **fields: Any) -> Document:
    """Return a subscription with its items."""
    return {
        "id": subscription_id,
        "object": "subscription",
        "cancel_at_period_end": False,
        "created": NOW - 100,
        "customer": "cus_1",
        "items": whole_list(f"/v1/subscription_items?subscription={subscription_id}", items),
        "status": "active",
        **fields,
    }


def scope(*streams: str, revalidated: Revalidated = frozenset(), **fields: Any) -> EventScope:
    """Return the scope of these streams, of a platform read in test mode."""
    resources = load_resources()
    wanted: Document = {
        "account_id": ACCOUNT,
        "is_platform": True,
        "livemode": False,
        "streams": {name: resources[name] for name in streams},
        "revalidated": revalidated,
        **fields,
    }
    return EventScope(**wanted)


async def messages(
    client: StripeClient, wanted: EventScope, events: Iterable[Mapping[str, Any] | bytes]
) -> list[Message]:
    """Return all messages of the events; raise the failure of the first one that fails."""
    failed: FailedEvents[int] = FailedEvents()
    async with aclosing(process_events(client, wanted, list(events), failed=failed)) as yielded:
        found = [message async for message in yielded]
    for failure in failed.take():
        raise EventFailed(failure.reason)
    return found


async def records(
    client: StripeClient, wanted: EventScope, *events: Mapping[str, Any] | bytes
) -> list[tuple[str, Document]]:
    """Return the records of the events, each with its stream."""
    return [
        (message.record_batch.stream, orjson.loads(record))
        for message in await messages(client, wanted, events)
        for record in message.record_batch.records
    ]


def with_metadata(document: Document, at: int = NOW, **fields: Any) -> Document:
    """Return the record of an object."""
    return {**document, **fields, "_account_id": ACCOUNT, "_updated_at": at}
