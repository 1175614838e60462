"""Processing of events that arrived together into record batches, for every ingress."""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import aclosing
from itertools import groupby, islice, repeat
from typing import Any

from engine_server.connectors.record_message import record_message
from engine_server.connectors.stripe.api.client import StripeClient
from engine_server.connectors.stripe.events.failed_events import FailedEvents, attempt
from engine_server.connectors.stripe.events.failure import EventFailed
from engine_server.connectors.stripe.events.object_fetcher import ObjectFetcher
from engine_server.connectors.stripe.events.process_event import process_event
from engine_server.connectors.stripe.events.same_second import SameSecond
from engine_server.connectors.stripe.events.scope import EventScope
from engine_server.connectors.stripe.records import StreamRecord
from engine_server.gc_pause import LARGE
from pipesync.v1.message_pb2 import Message

# The number of events processed concurrently: one page. Most need no request.
_EVENTS_AT_ONCE = 100
# The most records of one message.
_MAX_RECORDS = 1000


async def process_events(
    client: StripeClient,
    scope: EventScope,
    events: Sequence[bytes | Mapping[str, Any]],
    same_second: SameSecond | None = None,
    *,
    failed: FailedEvents[int],
    streams: Sequence[AbstractSet[str]] | None = None,
) -> AsyncGenerator[Message, None]:
    """Yield the record batches of events, in the order of the events.

    An event that fails makes no record. A record of a deleted object has ``deleted`` set.

    Args:
        client: Sends the requests.
        scope: The scope of the pipeline.
        events: Trusted events in the order of their arrival, as JSON or decoded. Lists in decoded
            ones are completed in place.
        same_second: Given if the order of arrival is unreliable: objects are looked up if it
            matters.
        failed: Collects the events that fail, by their index in ``events``; the others are applied.
        streams: The streams to apply each event to; None for all selected ones.

    Raises:
        ConnectionFailed: See ``StripeClient.get``; also if Stripe keeps failing at requests that an
            event needs.
        ConnectorError: The destination cannot be queried.
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
    fetcher = ObjectFetcher(client)
    try:
        async with asyncio.TaskGroup() as tasks:
            processed = []
            for event, scope in events:
                if isinstance(event, bytes) and len(event) >= LARGE:
                    # Parsing several at once would delay other requests.
                    await asyncio.sleep(0)
                making = process_event(client, fetcher, scope, event, same_second)
                processed.append(tasks.create_task(attempt(making, failed.skipped)))
    except ExceptionGroup as errors:
        # The first failure cancelled the other tasks.
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
    """Yield the messages of these records, in their order."""
    for stream, of_stream in groupby(records, key=lambda record: record[0]):
        while part := [record for _, record in islice(of_stream, _MAX_RECORDS)]:
            yield record_message(stream, part, are_change_events=True)
