"""Reads the history of the selected streams, from their checkpoints on."""

import math
import time
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import dataclass

from google.protobuf.timestamp_pb2 import Timestamp

from engine_server.connectors.protocols import Messages, ReadRequest, SelectedStream
from engine_server.connectors.stripe.account import Account
from engine_server.connectors.stripe.catalog import Resource, load_resources
from engine_server.connectors.stripe.checkpoint import resume
from engine_server.connectors.stripe.client import StripeClient
from engine_server.connectors.stripe.clock import ServerClock
from engine_server.connectors.stripe.config import StripeConfig
from engine_server.connectors.stripe.fetches import Failed, Fetched, Fetches, Opened, Outcome
from engine_server.connectors.stripe.ranges import Range
from engine_server.connectors.stripe.reconcile.comparison import Comparison
from engine_server.connectors.stripe.stream_fetch import StreamFetch
from engine_server.connectors.stripe.stream_report import StreamReport
from pipesync.v1.message_pb2 import Message

# Seconds from the planning of a read to its first page, with some patience.
_MOMENT = 60

# Stripe took its first payment in 2011: where a history is taken to begin when nothing tells.
_NOTHING_BEFORE = 1_293_840_000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stream:
    """The two sides of a stream's backfill: they share nothing that changes.

    Attributes:
        fetch: What is left to read.
        report: What was emitted.
        comparison: What the destination holds besides; None unless the run reconciles.
    """

    fetch: StreamFetch
    report: StreamReport
    comparison: Comparison | None


async def backfill(
    client: StripeClient, config: StripeConfig, request: ReadRequest, account: Account
) -> Messages:
    """Yields the messages that ``Source.read`` promises.

    Raises:
        ConnectionFailed: the API cannot be reached, or refuses the key.
        ConnectorError: a checkpoint is not one of this source; see ``Inventory``.
    """
    now = client.clock.second()
    streams = {
        selected.name: _open(selected, client, config, request, account, now)
        for selected in request.streams
    }
    unfinished = []
    for name, stream in streams.items():
        has_history = stream.fetch.resource.has_history
        if has_history and not stream.report.is_complete:
            unfinished.append(stream.fetch)
        elif name not in request.refused_streams:
            for message in _without_fetch(stream.report, has_history=has_history):
                yield message
    fetches = Fetches(
        client,
        unfinished,
        max_concurrency=config.max_concurrency,
        page_limit=request.state_limit,
        refused=request.refused_streams,
    )
    try:
        while (outcome := await fetches.next()) is not None:
            async with aclosing(_compared(streams[outcome.stream], outcome, request)) as messages:
                async for message in messages:
                    yield message
            has_checkpoint = False
            for message in _messages(streams[outcome.stream].report, outcome):
                # It may have been refused meanwhile.
                if outcome.stream in request.refused_streams:
                    break
                yield message
                has_checkpoint = has_checkpoint or message.HasField("source_state")
            if isinstance(outcome, Fetched) and not has_checkpoint:
                fetches.allow_one_more()
    finally:
        await fetches.close()
        for stream in streams.values():
            if stream.comparison is not None:
                stream.comparison.tell()


async def _compared(stream: _Stream, outcome: Outcome, request: ReadRequest) -> Messages:
    """What a page shows to be missing, before the checkpoint that accounts for the page."""
    comparison, refused = stream.comparison, request.refused_streams
    if comparison is None or stream.report.is_closed or not isinstance(outcome, Fetched):
        return
    async with aclosing(comparison.after(outcome.page)) as turns:
        async for turn in turns:
            if outcome.stream in refused:
                return
            if isinstance(turn, Message):
                yield turn
                continue
            for message in stream.report.compared(outcome.page, turn.compared_from):
                yield message


def _without_fetch(report: StreamReport, *, has_history: bool) -> Iterator[Message]:
    yield from report.start()
    if not has_history:
        yield from report.leave_out()
    yield from report.complete()


def _messages(report: StreamReport, outcome: Outcome) -> Iterator[Message]:
    if report.is_closed:
        return
    match outcome:
        case Opened():
            yield from report.start()
        case Failed(error=error):
            yield from report.fail(error)
        case Fetched(page=page):
            yield from report.page(page)
            if report.is_complete:
                yield from report.complete()


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
        fetch=StreamFetch(
            resource,
            checkpoint,
            account_id=account.id,
            since=account.created or _NOTHING_BEFORE,
            limit=limit,
            reconciles=request.reconcile,
            is_guessed=is_guessed,
        ),
        report=StreamReport(
            selected.stream,
            checkpoint,
            limit=limit,
            is_beside_runs=request.until is None,
        ),
        comparison=(
            Comparison(client, request.inventory, selected, resource, account.id)
            if request.reconcile and request.inventory is not None
            else None
        ),
    )


def _window(
    resource: Resource, selected: SelectedStream, until: Timestamp | None, now: int
) -> Range:
    """What of the stream is asked for, in whole seconds, as objects are stamped.

    A list that cannot be filtered by time has a window, too: a later run then knows how far back
    it has to read.
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
    """Whether the window ends by the engine's own clock, which may be behind."""
    asked = selected.selection.time_range
    is_asked = bool(resource.created_param) and asked.HasField("lt")
    if until is None:
        return not is_asked and not clock.is_known
    is_earlier = is_asked and whole_seconds(asked.lt) < whole_seconds(until)
    return not is_earlier and is_guess(until, clock)


def is_guess(until: Timestamp, clock: ServerClock) -> bool:
    """Whether a run's end is by the engine's own clock, a moment ago, and may be too early."""
    end = whole_seconds(until)
    return abs(time.time() - end) <= _MOMENT and (not clock.is_known or clock.latest() > end)


def untouched_checkpoint(selected: SelectedStream, request: ReadRequest, now: int) -> str:
    """The checkpoint of a stream of which nothing is read yet: the next read begins anew.

    ``now`` is the Unix second by Stripe's clock.
    """
    window = _window(load_resources()[selected.name], selected, request.until, now)
    return resume(selected.name, "", window).to_json()


def whole_seconds(moment: Timestamp) -> int:
    """A time in Unix seconds; a second that has begun counts as a whole one."""
    return moment.seconds + math.ceil(moment.nanos / 1e9)
