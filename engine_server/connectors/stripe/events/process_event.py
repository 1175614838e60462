"""The one place where events become records, whichever way they came in."""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import ExitStack, aclosing, nullcontext
from itertools import groupby, repeat, zip_longest
from typing import Any, TypeAlias

import structlog

from engine_server.connectors.record_message import record_message
from engine_server.connectors.stripe.catalog import Resource
from engine_server.connectors.stripe.client import StripeClient
from engine_server.connectors.stripe.errors import FailureScope, RequestFailed
from engine_server.connectors.stripe.events.api_version import is_safe
from engine_server.connectors.stripe.events.cut_lists import missing_items, stored_items
from engine_server.connectors.stripe.events.entitlements import entitlement_records
from engine_server.connectors.stripe.events.event import Event, NotAnEvent
from engine_server.connectors.stripe.events.failed_events import FailedEvents, attempt
from engine_server.connectors.stripe.events.failure import EventFailed, StreamRefused
from engine_server.connectors.stripe.events.fetch import Fetches
from engine_server.connectors.stripe.events.gone_items import gone_items
from engine_server.connectors.stripe.events.ids_only import ids_only
from engine_server.connectors.stripe.events.look_up import look_up, with_whole
from engine_server.connectors.stripe.events.records import StreamRecord, record_of
from engine_server.connectors.stripe.events.revalidation import is_final
from engine_server.connectors.stripe.events.same_second import SameSecond
from engine_server.connectors.stripe.events.scope import EventScope
from engine_server.connectors.stripe.events.subject import Ignored, Subject
from engine_server.connectors.stripe.nested_lists import records_to_emit
from pipesync.v1.message_pb2 import Message

log = structlog.get_logger()

# The name of a stream, and a record of it that is not stamped yet.
StreamFields: TypeAlias = tuple[str, dict[str, Any]]

_STREAM = FailureScope.STREAM

# How many events are worked on side by side: a page of them. Most need no request.
_EVENTS_AT_ONCE = 100


async def process_events(
    client: StripeClient,
    scope: EventScope,
    events: Sequence[bytes | Mapping[str, Any]],
    same_second: SameSecond | None = None,
    *,
    failed: FailedEvents[int],
    streams: Sequence[AbstractSet[str]] | None = None,
) -> AsyncGenerator[Message, None]:
    """Yields the record batches that events make, in the order in which the events came.

    An event that fails makes no record. A record of an object that is gone says ``deleted``.

    Args:
        client: The way to Stripe.
        scope: What of the events is wanted.
        events: Trusted ones, in the order of their arrival, as JSON or decoded; lists in decoded
            ones are completed in place.
        same_second: Where the order of their arrival says nothing: has those looked up of which it
            would matter.
        failed: Told of the events that fail by themselves, by their numbers among ``events``; the
            others are applied.
        streams: The streams that each of the events is applied to; None for all that are selected.

    Raises:
        ConnectionFailed: see ``StripeClient.get``; also that Stripe keeps failing at what an event
            needs besides itself.
        ConnectorError: the destination cannot be asked what it holds.
    """
    for start in range(0, len(events), _EVENTS_AT_ONCE):
        part = slice(start, start + _EVENTS_AT_ONCE)
        async with scope.batch() as stored:
            shared = scope.sharing(stored)
            scopes = (
                [shared.only(chosen) for chosen in streams[part]] if streams else repeat(shared)
            )
            together = zip(events[part], scopes, strict=False)
            processing = asyncio.create_task(
                _process_together(client, together, start, same_second, failed)
            )
            try:
                async with aclosing(stored.barriers_until(processing)) as barriers:
                    async for barrier in barriers:
                        yield barrier
                records = await processing
            finally:
                processing.cancel()
                await asyncio.gather(processing, return_exceptions=True)
        for message in record_batches(records):
            yield message


async def _process_together(
    client: StripeClient,
    events: Iterable[tuple[bytes | Mapping[str, Any], EventScope]],
    start: int,
    same_second: SameSecond | None,
    failed: FailedEvents[int],
) -> list[StreamRecord]:
    fetches = Fetches(client)
    try:
        async with asyncio.TaskGroup() as tasks:
            processed = [
                tasks.create_task(
                    attempt(
                        process_event(client, fetches, scope, event, same_second), failed.skipped
                    )
                )
                for event, scope in events
            ]
    except ExceptionGroup as errors:
        # The first one ended the others.
        raise errors.exceptions[0] from None
    records: list[StreamRecord] = []
    for number, task in enumerate(processed, start):
        outcome = task.result()
        if isinstance(outcome, EventFailed):
            failed.add(number, outcome.message)
        else:
            records += outcome
    return records


def record_batches(records: Iterable[StreamRecord]) -> Iterator[Message]:
    """The messages that bring these records, in their order."""
    for stream, of_stream in groupby(records, key=lambda record: record[0]):
        yield record_message(stream, (record for _, record in of_stream), are_changes=True)


async def process_event(
    client: StripeClient,
    fetches: Fetches,
    scope: EventScope,
    sent: bytes | Mapping[str, Any],
    same_second: SameSecond | None = None,
) -> list[StreamRecord]:
    """The records that one event makes; none when it concerns no selected stream.

    Args as of ``process_events``; ``fetches`` is shared by events that came together.

    Raises:
        EventFailed: The event cannot be applied, for a reason of its own.
        StreamRefused: The key or the account may not read objects of this type.
        ConnectionFailed: see ``StripeClient.get``.
        RequestFailed: Stripe refuses or keeps failing at what the event needs besides itself.
        ConnectorError: the destination cannot be asked what it holds.
    """
    try:
        event = Event.parse(sent)
    except NotAnEvent as error:
        log.warning("event_unreadable", error=str(error))
        return []
    if event.is_bare:
        raise EventFailed("it does not hold its object; a reconcile reads all objects again")
    named = {"event_id": event.id, "event_type": event.type}
    try:
        subject = Subject.of(event, scope)
        subject = await with_whole(fetches, scope, event, subject)
        wanted = subject.wanted(scope)
        if not wanted:
            log.debug("event_not_selected", **named, stream=subject.kind.stream)
            return []
        if not is_safe(event.api_version, scope.api_version):
            event = event.with_ids_only()
        made = await _made(client, fetches, scope, event, wanted, same_second)
    except Ignored as reason:
        log.info("event_ignored", **named, reason=str(reason))
        return []
    except RequestFailed as error:
        if error.scope is not FailureScope.STREAM:
            raise
        log.info("event_ignored", **named, reason=error.message)
        raise StreamRefused(subject.kind.stream, error.message) from error
    records = [
        (stream, record_of(record, account_id=scope.account_id, created=event.created))
        for stream, record in made
    ]
    log.info("event_processed", **named, records=len(records))
    return records


async def _made(
    client: StripeClient,
    fetches: Fetches,
    scope: EventScope,
    event: Event,
    subjects: Sequence[Subject],
    same_second: SameSecond | None,
) -> list[StreamFields]:
    """The records that an event makes: of the object that it tells of, then of the whole."""
    made: list[StreamFields] = []
    refusals: list[Ignored | RequestFailed] = []
    with ExitStack() as numbers:
        turns = []
        for subject in subjects:
            if same_second is None:
                break
            # All at once: what comes after this event then waits for its place in each of them.
            turn = same_second.turn(
                subject.kind.stream, subject.id, event.created, items=subject.items
            )
            numbers.callback(turn.release)
            turns.append(turn)
        for subject, turn in zip_longest(subjects, turns):
            told = event if subject.is_told else event.without_object()
            async with turn or nullcontext(False) as is_unsure:
                try:
                    records = await _records_of(
                        client, fetches, scope, told, subject, is_unsure=is_unsure
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
        # The part or the whole is refreshed all the same.
        log.warning("event_applied_in_part", event_id=event.id, reason=str(refusal))
    return made


async def _records_of(
    client: StripeClient,
    fetches: Fetches,
    scope: EventScope,
    event: Event,
    subject: Subject,
    *,
    is_unsure: bool,
) -> list[StreamFields]:
    """The records that an event makes, each with its stream.

    Raises:
        Ignored: It cannot be told what they are.
    """
    if subject.is_summary:
        found = await entitlement_records(client, scope, event, subject)
        return [(subject.kind.stream, record) for record in found]
    fields = await _current(fetches, scope, subject, is_unsure=is_unsure)
    return await _records(client, scope, event, subject, fields)


async def _current(
    fetches: Fetches, scope: EventScope, subject: Subject, *, is_unsure: bool
) -> dict[str, Any]:
    """The object as the event tells it, or as it is now if that is wanted.

    ``is_unsure``: whether what the event tells may be outdated by another one of its second.
    """
    fields, kind = subject.fields, subject.kind
    gone = {"id": subject.id, "object": kind.name, "deleted": True}
    if fields is None:
        return await look_up(fetches, subject) or gone
    is_gone = fields.get("deleted") is True
    if not is_unsure and (is_gone or is_final(fields) or not scope.revalidates(kind.name)):
        return fields
    if not subject.path and not is_unsure:
        return fields
    try:
        found = await look_up(fetches, subject)
    except EventFailed as error:
        log.warning("event_not_revalidated", object_id=subject.id, error=error.message)
        return fields
    except RequestFailed as error:
        if error.scope is FailureScope.STREAM:
            log.warning("event_not_revalidated", path=subject.path, error=error.message)
            return fields
        raise
    # Of a deleted customer an answer is left that says no more than that.
    if found is not None and not (is_gone and found.get("deleted") is True):
        return found
    # What it was like when it went, its row may know better than a change that was overtaken. What
    # tells of its end knows best.
    is_overtaken = is_unsure and not is_gone
    return gone if is_overtaken else {**fields, "deleted": True}


async def _records(
    client: StripeClient, scope: EventScope, event: Event, subject: Subject, fields: dict[str, Any]
) -> list[tuple[str, dict[str, Any]]]:
    """The object, and the items of its lists that are records of their own."""
    kind = subject.kind
    records: list[tuple[str, dict[str, Any]]] = []
    is_gone = fields.get("deleted") is True
    # Before the lists of the object are completed, which then say no longer that they were cut.
    stored = await stored_items(client, scope, event, subject, fields)
    if own := scope.streams.get(kind.stream):
        if not is_gone:
            await _complete(client, own, fields)
        records.append((kind.stream, fields))
    for stream, field in kind.items.items():
        resource = scope.streams.get(stream)
        if resource is None:
            continue
        if is_gone:
            held = fields.get(field) or ids_only(event.object or {}).get(field)
            items, gone = [], list(gone_items(held, {"data": []}))
        else:
            items = await _complete(client, resource, fields)
            gone = list(gone_items(event.previous.get(field), fields.get(field)))
        gone += missing_items(stored.get(stream, ()), (*items, *gone), resource, fields)
        records += [(stream, item) for item in (*items, *gone)]
    return records


async def _complete(
    client: StripeClient, resource: Resource, fields: dict[str, Any]
) -> list[dict[str, Any]]:
    """The records that ``resource`` makes of an object, once the lists that it needs are whole."""
    try:
        return await records_to_emit(client, resource, [fields])
    except RequestFailed as error:
        if error.scope is FailureScope.STRIPE:
            raise
        # A list of an old API version, say, that is there no more: what is known is better than
        # nothing, and trying again would not help.
        log.warning("event_lists_incomplete", stream=resource.stream.name, error=error.message)
    nested = fields.get(resource.nested_field) if resource.nested_field else None
    return list(nested["data"]) if isinstance(nested, dict) and "data" in nested else []
