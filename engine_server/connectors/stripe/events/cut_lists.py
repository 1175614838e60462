"""Items deleted from a list that an event shows only in part.

An object holds the first ten items of a list, and ``previous_attributes`` as many of the list
before the change. Longer lists are read, and compared with the items that the destination stores.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import structlog

from engine_server.connectors.stripe.api.client import StripeClient
from engine_server.connectors.stripe.api.errors import FailureScope, RequestFailed
from engine_server.connectors.stripe.catalog.streams import Resource
from engine_server.connectors.stripe.events.deleted_items import is_cut
from engine_server.connectors.stripe.events.event import Event
from engine_server.connectors.stripe.events.scope import EventScope
from engine_server.connectors.stripe.events.stored_items import StoredItems
from engine_server.connectors.stripe.events.subject import Subject
from engine_server.connectors.stripe.lists.nested_pages import complete

_log = structlog.get_logger(__name__)


async def stored_items(
    client: StripeClient, scope: EventScope, event: Event, subject: Subject, fields: dict[str, Any]
) -> Mapping[str, Collection[str]]:
    """Return the stored items to compare for the lists in an object, by stream.

    These lists are then read again in place: the items that the event shows may be outdated, and an
    item added since would seem to be deleted.

    Args:
        client: Sends the requests.
        scope: The scope of the pipeline, with the ``stored_items`` of the batch.
        event: The event about the object.
        subject: The object.
        fields: The object as the event shows it, or as it was fetched.

    Raises:
        ConnectionFailed: See ``StripeClient.get``.
        RequestFailed: A list cannot be read, for a reason that may pass.
        ConnectorError: The destination cannot be queried.
    """
    found: dict[str, Collection[str]] = {}
    if scope.stored_items is None or not scope.stored_items.can_be_queried:
        return found
    for stream, field in subject.kind.items.items():
        resource = scope.streams.get(stream)
        if resource is None or not _may_lack_items(event, fields, field):
            continue
        scope.on_event_compared(event.id)
        # Queried before the list is read: items stored by now that are not in it are deleted.
        stored = await scope.stored_items.of(
            stream, resource.parent_field, subject.id, account_id=scope.account_id
        )
        if fields.get("deleted") is True or await _read_anew(
            client, scope.stored_items, fields.get(field)
        ):
            found[stream] = stored
    return found


def missing_items(
    stored: Iterable[str],
    known: Iterable[Mapping[str, Any]],
    resource: Resource,
    owner: Mapping[str, Any],
) -> Iterator[dict[str, Any]]:
    """Yield the stored items that are not known, each as deleted.

    Args:
        stored: The ids of the stored items.
        known: The items that exist, and those known to be deleted.
        resource: The stream of the items.
        owner: The object whose items they are.
    """
    ids = {item.get("id") for item in known}
    for item_id in sorted(set(stored) - ids):
        yield {"id": item_id, resource.parent_field: owner["id"], "deleted": True}


def _may_lack_items(event: Event, fields: Mapping[str, Any], field: str) -> bool:
    """Return whether more items may have left a list than the event shows."""
    if fields.get("deleted") is True:
        # The remaining fields of the object may not show whose items they were.
        return True
    if event.object is None or not isinstance(event.object.get(field), Mapping):
        # Nothing shows the list before the change: a thin event, or one of an API version without
        # such a list.
        return isinstance(fields.get(field), Mapping)
    told = (event.previous.get(field), event.object.get(field), fields.get(field))
    return any(map(is_cut, told))


async def _read_anew(client: StripeClient, batch: StoredItems, nested: object) -> bool:
    """Read a list again in place; return False if it stays as it was, and incomplete."""
    match nested:
        case {"url": str(url), "data": list()} if isinstance(nested, dict):
            pass
        case _:
            return False

    async def read() -> dict[str, Any]:
        anew: dict[str, Any] = {"url": url, "data": [], "has_more": True}
        await complete(client, anew)
        return anew

    try:
        anew = await batch.shared(url, read)
    except RequestFailed as error:
        if error.scope is FailureScope.STRIPE:
            raise
        _log.warning("event_lists_incomplete", url=url, error=error.message)
        return not is_cut(nested)
    if anew["has_more"]:
        # The object was deleted.
        return not is_cut(nested)
    nested.update(data=anew["data"], has_more=False)
    return True
