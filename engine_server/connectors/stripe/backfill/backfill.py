"""Backfill of the selected streams from their checkpoints."""

import math
import time
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import dataclass

from google.protobuf.timestamp_pb2 import Timestamp

from engine_server.connectors.protocols import Messages, ReadRequest, SelectedStream
from engine_server.connectors.stripe.account import Account
from engine_server.connectors.stripe.api.client import StripeClient
from engine_server.connectors.stripe.api.clock import ServerClock
from engine_server.connectors.stripe.backfill.checkpoint import resume
from engine_server.connectors.stripe.backfill.fetch_scheduler import (
    FetchOutcome,
    FetchScheduler,
    PageFetched,
    StreamFailed,
    StreamOpened,
)
from engine_server.connectors.stripe.backfill.stream_emitter import StreamEmitter
from engine_server.connectors.stripe.backfill.stream_reader import StreamReader
from engine_server.connectors.stripe.catalog.streams import Resource, load_resources
from engine_server.connectors.stripe.config import StripeConfig
from engine_server.connectors.stripe.lists.ranges import Range
from engine_server.connectors.stripe.reconcile.comparison import Comparison
from pipesync.v1.message_pb2 import Message

# The most seconds between planning a read and its first page, with a margin.
_MOMENT = 60

# Stripe took its first payment in 2011. A history begins here if the account's age is unknown.
_NOTHING_BEFORE = 1_293_840_000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stream:
    """The two sides of a stream's backfill, which share no mutable state.

    Attributes:
        fetch: The ranges left to read.
        emitter: Emits the messages of the stream.
        comparison: Compares the stream with the destination; None unless the run reconciles.
    """

    fetch: StreamReader
    emitter: StreamEmitter
    comparison: Comparison | None


async def backfill(
    client: StripeClient, config: StripeConfig, request: ReadRequest, account: Account
) -> Messages:
    """Yield the messages that ``Source.read`` promises.

    Raises:
        ConnectionFailed: The API cannot be reached or refuses the key.
        ConnectorError: A checkpoint is not one of this source; see ``StoredRows``.
    """
    now = client.clock.second()
    streams = {
        selected.name: _open(selected, client, config, request, account, now)
        for selected in request.streams
    }
    unfinished = []
    for name, stream in streams.items():
        has_history = stream.fetch.resource.has_history
        if has_history and not stream.emitter.is_complete:
            unfinished.append(stream.fetch)
        elif name not in request.errored_streams:
            for message in _without_fetch(stream.emitter, has_history=has_history):
                yield message
    scheduler = FetchScheduler(
        client,
        unfinished,
        max_concurrency=config.max_concurrency,
        page_limit=request.state_limit,
        errored=request.errored_streams,
    )
    try:
        while (outcome := await scheduler.next()) is not None:
            async with aclosing(_compared(streams[outcome.stream], outcome, request)) as messages:
                async for message in messages:
                    yield message
            has_checkpoint = False
            for message in _messages(streams[outcome.stream].emitter, outcome):
                # The stream may have errored meanwhile.
                if outcome.stream in request.errored_streams:
                    break
                yield message
                has_checkpoint = has_checkpoint or message.HasField("source_state")
            if isinstance(outcome, PageFetched) and not has_checkpoint:
                scheduler.refund_page()
    finally:
        await scheduler.close()
        for stream in streams.values():
            if stream.comparison is not None:
                stream.comparison.log_result()


async def _compared(stream: _Stream, outcome: FetchOutcome, request: ReadRequest) -> Messages:
    """Yield the records that a page shows to be missing, ahead of the page's checkpoint."""
    comparison = stream.comparison
    if comparison is None or stream.emitter.is_closed or not isinstance(outcome, PageFetched):
        return
    async with aclosing(comparison.after(outcome.page)) as turns:
        async for turn in turns:
            if outcome.stream in request.errored_streams:
                return
            if isinstance(turn, Message):
                yield turn
                continue
            for message in stream.emitter.compared(outcome.page, turn.compared_from):
                yield message


def _without_fetch(emitter: StreamEmitter, *, has_history: bool) -> Iterator[Message]:
    yield from emitter.start()
    if not has_history:
        yield from emitter.skip_history()
    yield from emitter.complete()


def _messages(emitter: StreamEmitter, outcome: FetchOutcome) -> Iterator[Message]:
    if emitter.is_closed:
        return
    match outcome:
        case StreamOpened():
            yield from emitter.start()
        case StreamFailed(error=error):
            yield from emitter.fail(error)
        case PageFetched(page=page):
            yield from emitter.page(page)
            if emitter.is_complete:
                yield from emitter.complete()


def _open(
    selected: SelectedStream,
    client: StripeClient,
    config: StripeConfig,
    request: ReadRequest,
    account: Account,
    now: int,
) -> _Stream:
    resource = load_resources()[selected.name]
    is_guessed = _is_guessed(resource, selected, request.until, client.clock)
    checkpoint = resume(
        selected.name,
        request.state.streams.get(selected.name, ""),
        _window(resource, selected, request.until, now),
        begins_run=request.begins_run or (request.until is None and is_guessed),
        is_guessed=is_guessed,
    )
    limit = selected.selection.backfill_limit or config.backfill_limit
    return _Stream(
        fetch=StreamReader(
            resource,
            checkpoint,
            account_id=account.id,
            since=account.created or _NOTHING_BEFORE,
            limit=limit,
            reconciles=request.reconcile,
            is_guessed=is_guessed,
        ),
        emitter=StreamEmitter(
            selected.stream,
            checkpoint,
            limit=limit,
            is_outside_run=request.until is None,
        ),
        comparison=(
            Comparison(client, request.stored_rows, selected, resource, account.id)
            if request.reconcile and request.stored_rows is not None
            else None
        ),
    )


def _window(
    resource: Resource, selected: SelectedStream, until: Timestamp | None, now: int
) -> Range:
    """Return the time range requested of a stream, in whole seconds like creation times.

    A list that cannot be filtered by time has a window, too: it tells a later run how far back to
    read.
    """
    asked = selected.selection.time_range
    end = whole_seconds(until) if until is not None else now + 1
    if not resource.created_param:
        return Range(lt=end)
    return Range(
        gte=whole_seconds(asked.gte) if asked.HasField("gte") else None,
        lt=whole_seconds(asked.lt) if asked.HasField("lt") else end,
    )


def _is_guessed(
    resource: Resource, selected: SelectedStream, until: Timestamp | None, clock: ServerClock
) -> bool:
    """Return whether the window ends by the engine's own clock, which may be behind."""
    asked = selected.selection.time_range
    is_asked = bool(resource.created_param) and asked.HasField("lt")
    if until is None:
        return not is_asked and not clock.is_known
    is_earlier = is_asked and whole_seconds(asked.lt) < whole_seconds(until)
    return not is_earlier and is_guess(until, clock)


def is_guess(until: Timestamp, clock: ServerClock) -> bool:
    """Return whether a run ends by the engine's clock, a moment ago, and possibly too early."""
    end = whole_seconds(until)
    return abs(time.time() - end) <= _MOMENT and (not clock.is_known or clock.latest() > end)


def untouched_checkpoint(selected: SelectedStream, request: ReadRequest, now: int) -> str:
    """Return the checkpoint of an unread stream, from which the next read starts over.

    Args:
        selected: The stream.
        request: The read.
        now: The Unix second by Stripe's clock.
    """
    window = _window(load_resources()[selected.name], selected, request.until, now)
    return resume(selected.name, "", window).to_json()


def whole_seconds(moment: Timestamp) -> int:
    """Return a time in Unix seconds, rounded up."""
    return moment.seconds + math.ceil(moment.nanos / 1e9)
