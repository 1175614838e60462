"""What a customer is entitled to, as one event tells it for all of its entitlements."""

from collections.abc import Collection, Iterable
from typing import Any
from urllib.parse import urlencode

import structlog

from engine_server.connectors.stripe.client import StripeClient
from engine_server.connectors.stripe.errors import RequestFailed
from engine_server.connectors.stripe.events.event import Event
from engine_server.connectors.stripe.events.gone_items import gone_items
from engine_server.connectors.stripe.events.scope import EventScope
from engine_server.connectors.stripe.events.subject import Subject
from engine_server.connectors.stripe.nested_pages import complete

log = structlog.get_logger()

_LIST = "entitlements"


async def entitlement_records(
    client: StripeClient, scope: EventScope, event: Event, subject: Subject
) -> list[dict[str, Any]]:
    """The active entitlements of a customer, and those that are no more, as ``deleted``.

    The list is read, as a summary holds ten entitlements at most
    (https://docs.stripe.com/billing/entitlements#webhooks), and as two summaries of one second do
    not tell which was first. Gone is what the event says that was there before and, where the
    destination can be asked, whatever else it holds of the customer. An entitlement does not say
    whose it is: its record does.

    Args:
        client: The way to Stripe.
        scope: What of the events is wanted.
        event: Which holds the summary.
        subject: The summary.

    Raises:
        ConnectionFailed: see ``StripeClient.get``.
        RequestFailed: The list cannot be read, for a reason that may pass.
    """
    resource = scope.streams[subject.kind.stream]
    stored: Collection[str] = ()
    if scope.stored_items is not None and scope.stored_items.can_be_asked:
        scope.on_compared(event.id)
        # Ahead of the list: what is stored by now and not in it is gone.
        stored = await scope.stored_items.of(subject.kind.stream, resource.owner_field, subject.id)
    now = await _current_list(client, subject)
    gone = [*gone_items(event.previous.get(_LIST), now)]
    if not now["has_more"]:
        known = _ids((*now["data"], *gone))
        gone += [
            {"id": object_id, "object": subject.kind.name, "deleted": True}
            for object_id in sorted(stored)
            if object_id not in known
        ]
    return [{**item, resource.owner_field: subject.id} for item in (*now["data"], *gone)]


async def _current_list(client: StripeClient, subject: Subject) -> dict[str, Any]:
    """All that the customer is entitled to; what the event holds where that cannot be read."""
    path = subject.kind.path
    whole = {"url": f"{path}?{urlencode({'customer': subject.id})}", "data": [], "has_more": True}
    try:
        await complete(client, whole)
    except RequestFailed as error:
        if not error.is_unavailable:
            raise
        log.warning("event_lists_incomplete", path=path, error=error.message)
        return _told(subject)
    # A customer that is there no more is entitled to nothing.
    return {**whole, "has_more": False}


def _told(subject: Subject) -> dict[str, Any]:
    match (subject.fields or {}).get(_LIST):
        case {"data": list(items), "has_more": bool(has_more)}:
            told = [item for item in items if isinstance(item, dict) and "id" in item]
            return {"data": told, "has_more": has_more}
    return {"data": [], "has_more": True}


def _ids(items: Iterable[dict[str, Any]]) -> set[Any]:
    return {item["id"] for item in items}
