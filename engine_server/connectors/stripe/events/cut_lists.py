"""The items that left a list of which an event shows only a part.

An object holds the first ten items of a list, and ``previous_attributes`` as many of the list as it
was. Of a longer one, the items that the destination stores are compared with the list as it is.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import structlog

from engine_server.connectors.stripe.catalog import Resource
from engine_server.connectors.stripe.client import StripeClient
from engine_server.connectors.stripe.errors import FailureScope, RequestFailed
from engine_server.connectors.stripe.events.event import Event
from engine_server.connectors.stripe.events.gone_items import is_cut
from engine_server.connectors.stripe.events.scope import EventScope
from engine_server.connectors.stripe.events.stored_items import StoredItems
from engine_server.connectors.stripe.events.subject import Subject
from engine_server.connectors.stripe.nested_pages import complete

log = structlog.get_logger()


async def stored_items(
    client: StripeClient, scope: EventScope, event: Event, subject: Subject, fields: dict[str, Any]
) -> Mapping[str, Collection[str]]:
    """Return the stored items of the lists in an object that are to be compared, by stream.

    These lists are then read from their beginning, in place: the items that the event shows may be
    outdated, and an item that was added since would seem to be gone.

    Args:
        client: The way to Stripe.
        scope: What of the events is wanted, with the ``stored_items`` of its batch.
        event: What tells of the object.
        subject: The object.
        fields: The object as the event shows it, or as it was fetched.

    Raises:
        ConnectionFailed: see ``StripeClient.get``.
        RequestFailed: A list cannot be read, for a reason that may pass.
        ConnectorError: The destination cannot be asked.
    """
    found: dict[str, Collection[str]] = {}
    if scope.stored_items is None or not scope.stored_items.can_be_asked:
        return found
    for stream, field in subject.kind.items.items():
        resource = scope.streams.get(stream)
        if resource is None or not _may_lack_items(event, fields, field):
            continue
        scope.on_compared(event.id)
        # Ahead of the list: what is stored by now and not in it is gone.
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
    """Yields those of the stored items that are not known, each as deleted.

    Args:
        stored: Their ids.
        known: The items that there are, and those that are known to be gone.
        resource: Their stream.
        owner: The object whose items they are.
    """
    ids = {item.get("id") for item in known}
    for item_id in sorted(set(stored) - ids):
        yield {"id": item_id, resource.parent_field: owner["id"], "deleted": True}


def _may_lack_items(event: Event, fields: Mapping[str, Any], field: str) -> bool:
    """Whether more items may have left a list than the event tells of."""
    if fields.get("deleted") is True:
        # Little may be left of the object to tell whose they were.
        return True
    if event.object is None or not isinstance(event.object.get(field), Mapping):
        # Nothing tells what was otherwise before: a thin event, or one of an API version that has
        # no such list.
        return isinstance(fields.get(field), Mapping)
    told = (event.previous.get(field), event.object.get(field), fields.get(field))
    return any(map(is_cut, told))


async def _read_anew(client: StripeClient, batch: StoredItems, nested: object) -> bool:
    """Reads a list from its beginning, in place; False when it stays as it was, and cut."""
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
        log.warning("event_lists_incomplete", url=url, error=error.message)
        return not is_cut(nested)
    if anew["has_more"]:
        # The object is there no more.
        return not is_cut(nested)
    nested.update(data=anew["data"], has_more=False)
    return True
