"""Entitlements of a customer, which one event reports for all of them."""

from collections.abc import Collection, Iterable
from typing import Any
from urllib.parse import urlencode

import structlog

from engine_server.connectors.stripe.api.client import StripeClient
from engine_server.connectors.stripe.api.errors import RequestFailed
from engine_server.connectors.stripe.events.deleted_items import deleted_items
from engine_server.connectors.stripe.events.event import Event
from engine_server.connectors.stripe.events.scope import EventScope
from engine_server.connectors.stripe.events.subject import Subject
from engine_server.connectors.stripe.lists.nested_pages import complete

_log = structlog.get_logger(__name__)

_LIST = "entitlements"


async def entitlement_records(
    client: StripeClient, scope: EventScope, event: Event, subject: Subject
) -> list[dict[str, Any]]:
    """Return the active entitlements of a customer, and former ones as ``deleted``.

    The list is read, as a summary holds ten entitlements at most
    (https://docs.stripe.com/billing/entitlements#webhooks), and two summaries of one second do not
    show which was first. Former entitlements are those that the event shows before the change and,
    if the destination can be queried, all others stored for the customer. An entitlement does not
    name its customer, so its record does.

    Args:
        client: Sends the requests.
        scope: The scope of the pipeline.
        event: The event with the summary.
        subject: The summary.

    Raises:
        ConnectionFailed: See ``StripeClient.get``.
        RequestFailed: The list cannot be read, for a reason that may pass.
    """
    resource = scope.streams[subject.kind.stream]
    stored: Collection[str] = ()
    if scope.stored_items is not None and scope.stored_items.can_be_queried:
        scope.on_event_compared(event.id)
        # Queried before the list is read: entitlements stored by now that are not in it are
        # deleted.
        stored = await scope.stored_items.of(subject.kind.stream, resource.owner_field, subject.id)
    now = await _current_list(client, subject)
    deleted = [*deleted_items(event.previous.get(_LIST), now)]
    if not now["has_more"]:
        known = _ids((*now["data"], *deleted))
        deleted += [
            {"id": object_id, "object": subject.kind.name, "deleted": True}
            for object_id in sorted(stored)
            if object_id not in known
        ]
    return [{**item, resource.owner_field: subject.id} for item in (*now["data"], *deleted)]


async def _current_list(client: StripeClient, subject: Subject) -> dict[str, Any]:
    """Return the customer's entitlements; those in the event if the list is refused."""
    path = subject.kind.path
    whole = {"url": f"{path}?{urlencode({'customer': subject.id})}", "data": [], "has_more": True}
    try:
        await complete(client, whole)
    except RequestFailed as error:
        if not error.is_unavailable:
            raise
        _log.warning("event_lists_incomplete", path=path, error=error.message)
        return _shown_list(subject)
    # A deleted customer has no entitlements.
    return {**whole, "has_more": False}


def _shown_list(subject: Subject) -> dict[str, Any]:
    match (subject.fields or {}).get(_LIST):
        case {"data": list(items), "has_more": bool(has_more)}:
            told = [item for item in items if isinstance(item, dict) and "id" in item]
            return {"data": told, "has_more": has_more}
    return {"data": [], "has_more": True}


def _ids(items: Iterable[dict[str, Any]]) -> set[Any]:
    return {item["id"] for item in items}
