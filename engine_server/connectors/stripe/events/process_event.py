"""Processing of one event into records."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from itertools import zip_longest
from typing import Any, TypeAlias

import structlog

from engine_server.connectors.stripe.api.client import StripeClient
from engine_server.connectors.stripe.api.errors import FailureScope, RequestFailed
from engine_server.connectors.stripe.catalog.streams import Resource
from engine_server.connectors.stripe.events.api_version import is_safe
from engine_server.connectors.stripe.events.cut_lists import missing_items, stored_items
from engine_server.connectors.stripe.events.deleted_items import deleted_items
from engine_server.connectors.stripe.events.entitlements import entitlement_records
from engine_server.connectors.stripe.events.event import Event, EventTooLarge, NotAnEvent
from engine_server.connectors.stripe.events.failure import EventFailed, StreamRefused
from engine_server.connectors.stripe.events.ids_only import ids_only
from engine_server.connectors.stripe.events.look_up import look_up, with_whole
from engine_server.connectors.stripe.events.object_fetcher import ObjectFetcher
from engine_server.connectors.stripe.events.revalidation import is_final
from engine_server.connectors.stripe.events.same_second import SameSecond
from engine_server.connectors.stripe.events.scope import EventScope
from engine_server.connectors.stripe.events.subject import Ignored, Subject
from engine_server.connectors.stripe.lists.nested_lists import records_to_emit
from engine_server.connectors.stripe.records import StreamRecord, record_of

_log = structlog.get_logger(__name__)

# The name of a stream, and a record before its metadata are added.
StreamFields: TypeAlias = tuple[str, dict[str, Any]]

_STREAM = FailureScope.STREAM

# The number of records of an event made before other tasks run.
_RECORDS_AT_ONCE = 1000


async def process_event(
    client: StripeClient,
    fetcher: ObjectFetcher,
    scope: EventScope,
    sent: bytes | Mapping[str, Any],
    same_second: SameSecond | None = None,
) -> list[StreamRecord]:
    """Return the records of one event; none if it concerns no selected stream.

    Args:
        client: Sends the requests.
        fetcher: Shared by events that arrived together.
        scope: As in ``process_events``.
        sent: The event, as in ``process_events``.
        same_second: As in ``process_events``.

    Raises:
        EventFailed: The event cannot be applied, for a reason of its own.
        StreamRefused: The key or the account may not read objects of this type.
        ConnectionFailed: See ``StripeClient.get``.
        RequestFailed: Stripe refuses a request that the event needs, or keeps failing.
        ConnectorError: The destination cannot be queried.
    """
    try:
        event = Event.parse(sent)
    except EventTooLarge as error:
        raise EventFailed(f"the event is too large to be decoded: {error}") from None
    except NotAnEvent as error:
        _log.warning("event_unreadable", error=str(error))
        return []
    if event.is_bare:
        raise EventFailed("it does not hold its object; a reconcile reads all objects again")
    named = {"event_id": event.id, "event_type": event.type}
    try:
        subject = Subject.of(event, scope)
        subject = await with_whole(fetcher, scope, event, subject)
        wanted = subject.wanted(scope)
        if not wanted:
            _log.debug("event_not_selected", **named, stream=subject.kind.stream)
            return []
        for one in wanted:
            one.require_id()
        if not is_safe(event.api_version, scope.api_version):
            event = event.with_ids_only()
        made = await _made(client, fetcher, scope, event, wanted, same_second)
    except Ignored as reason:
        _log.info("event_ignored", **named, reason=str(reason))
        return []
    except RequestFailed as error:
        if error.scope is not FailureScope.STREAM:
            raise
        _log.info("event_ignored", **named, reason=error.message)
        raise StreamRefused(subject.kind.stream, error.message) from error
    records: list[StreamRecord] = []
    for number, (stream, record) in enumerate(made, start=1):
        records.append(
            (stream, record_of(record, account_id=scope.account_id, created=event.created))
        )
        if number % _RECORDS_AT_ONCE == 0:
            await asyncio.sleep(0)
    _log.info("event_processed", **named, records=len(records))
    return records


async def _made(
    client: StripeClient,
    fetcher: ObjectFetcher,
    scope: EventScope,
    event: Event,
    subjects: Sequence[Subject],
    same_second: SameSecond | None,
) -> list[StreamFields]:
    """Return the records of an event: of its own object, then of the whole."""
    made: list[StreamFields] = []
    refusals: list[Ignored | RequestFailed] = []
    with ExitStack() as numbers:
        turns = []
        for subject in subjects:
            if same_second is None:
                break
            # All turns are taken at once, so that later events queue behind this one for each
            # object.
            turn = same_second.turn(
                subject.kind.stream, subject.id, event.created, items=subject.items
            )
            numbers.callback(turn.release)
            turns.append(turn)
        for subject, turn in zip_longest(subjects, turns):
            told = event if subject.is_named_by_event else event.without_object()
            async with turn or nullcontext(False) as is_unsure:
                if len(subject.items) > _RECORDS_AT_ONCE:
                    await asyncio.sleep(0)
                try:
                    records = await _records_of(
                        client, fetcher, scope, told, subject, is_unsure=is_unsure
                    )
                except (Ignored, RequestFailed) as reason:
                    if isinstance(reason, RequestFailed) and reason.scope is not _STREAM:
                        raise
                    refusals.append(reason)
                    continue
                if turn is not None:
                    turn.made((stream, str(record.get("id"))) for stream, record in records)
            made += records
    if len(refusals) == len(subjects):
        raise refusals[0]
    for refusal in refusals:
        # The part or the whole is still refreshed.
        _log.warning("event_applied_in_part", event_id=event.id, reason=str(refusal))
    return made


async def _records_of(
    client: StripeClient,
    fetcher: ObjectFetcher,
    scope: EventScope,
    event: Event,
    subject: Subject,
    *,
    is_unsure: bool,
) -> list[StreamFields]:
    """Return the records of an event, each with its stream.

    Raises:
        Ignored: The records cannot be determined.
    """
    if subject.is_summary:
        found = await entitlement_records(client, scope, event, subject)
        return [(subject.kind.stream, record) for record in found]
    fields = await _current(fetcher, scope, subject, is_unsure=is_unsure)
    return await _records(client, scope, event, subject, fields)


async def _current(
    fetcher: ObjectFetcher, scope: EventScope, subject: Subject, *, is_unsure: bool
) -> dict[str, Any]:
    """Return the object from the event, or its current state if needed.

    ``is_unsure`` says that another event of the same second may be newer.
    """
    fields, kind = subject.fields, subject.kind
    deleted = {"id": subject.id, "object": kind.name, "deleted": True}
    if fields is None:
        return await look_up(fetcher, subject) or deleted
    is_deleted = fields.get("deleted") is True
    if not is_unsure and (is_deleted or is_final(fields) or not scope.revalidates(kind.name)):
        return fields
    if not subject.path and not is_unsure:
        return fields
    try:
        found = await look_up(fetcher, subject)
    except EventFailed as error:
        _log.warning("event_not_revalidated", object_id=subject.id, error=error.message)
        return fields
    except RequestFailed as error:
        if error.scope is FailureScope.STREAM:
            _log.warning("event_not_revalidated", path=subject.path, error=error.message)
            return fields
        raise
    # A deleted customer is returned with little more than its id.
    if found is not None and not (is_deleted and found.get("deleted") is True):
        return found
    # The row may have a later last state than an outdated change. The event of the deletion has the
    # last one.
    is_overtaken = is_unsure and not is_deleted
    return deleted if is_overtaken else {**fields, "deleted": True}


async def _records(
    client: StripeClient, scope: EventScope, event: Event, subject: Subject, fields: dict[str, Any]
) -> list[tuple[str, dict[str, Any]]]:
    """Return the object and the items of its lists that are records themselves."""
    kind = subject.kind
    records: list[tuple[str, dict[str, Any]]] = []
    is_deleted = fields.get("deleted") is True
    # Must come before the object's lists are completed, which removes the signs of truncation.
    stored = await stored_items(client, scope, event, subject, fields)
    if own := scope.streams.get(kind.stream):
        if not is_deleted:
            await _complete(client, own, fields)
        records.append((kind.stream, fields))
    for stream, field in kind.items.items():
        resource = scope.streams.get(stream)
        if resource is None:
            continue
        if is_deleted:
            held = fields.get(field) or ids_only(event.object or {}).get(field)
            items, deleted = [], list(deleted_items(held, {"data": []}))
        else:
            items = await _complete(client, resource, fields)
            deleted = list(deleted_items(event.previous.get(field), fields.get(field)))
        deleted += missing_items(stored.get(stream, ()), (*items, *deleted), resource, fields)
        records += [(stream, item) for item in (*items, *deleted)]
    return records


async def _complete(
    client: StripeClient, resource: Resource, fields: dict[str, Any]
) -> list[dict[str, Any]]:
    """Return the records that ``resource`` makes of an object, after completing its lists."""
    try:
        return await records_to_emit(client, resource, [fields])
    except RequestFailed as error:
        if error.scope is FailureScope.STRIPE:
            raise
        # For example a list of an old API version that no longer exists: the known items are better
        # than none, and a retry would not help.
        _log.warning("event_lists_incomplete", stream=resource.stream.name, error=error.message)
    nested = fields.get(resource.nested_field) if resource.nested_field else None
    return list(nested["data"]) if isinstance(nested, dict) and "data" in nested else []
