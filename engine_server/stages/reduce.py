"""Folds a sync's messages into progress and state, and ends them with the eof that says it all."""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field

from engine_server import state as sync_state
from engine_server.barriers import Barriers
from engine_server.progress.tracker import ProgressTracker
from engine_server.stream_name import stream_name
from pipesync.v1.message_pb2 import Message
from pipesync.v1.progress_pb2 import (
    RUN_STATUS_FAILED,
    RUN_STATUS_STARTED,
    ConnectionStatus,
    Progress,
)
from pipesync.v1.state_pb2 import Eof, SyncRun, SyncState

PROGRESS_INTERVAL_NANOSECONDS = 200_000_000


@dataclass(slots=True)
class Ending:
    """How a request comes to its end, noted by the stages as it happens.

    Attributes:
        cut_short: A limit, a deadline or a shutdown ended it.
        failure_message: Why a connector could not go on; empty while none failed.
        refused_streams: The streams that errored, in the source or in the destination, or in an
            earlier request of the run.
    """

    cut_short: bool = False
    failure_message: str = ""
    refused_streams: set[str] = field(default_factory=set)

    def cut(self) -> None:
        """Notes that a limit was reached."""
        self.cut_short = True

    def fail(self, message: str) -> None:
        """Notes a failure; the first one is the cause of those after it."""
        self.failure_message = self.failure_message or message


async def reduce(
    messages: AsyncIterator[Message],
    *,
    state: SyncState,
    streams: Iterable[str],
    ending: Ending,
    barriers: Barriers | None = None,
    beside_run: bool = False,
    clock: Callable[[], int] = time.time_ns,
) -> AsyncGenerator[Message, None]:
    """Yields the run, ``messages`` with progress among them, the last progress and the eof.

    Progress is yielded five times a second at most, and whenever a stream changes status. What
    comes of a stream after it errored is dropped: no later checkpoint or status hides an error, and
    no checkpoint of all streams accounts for it. Barriers end here.

    Args:
        messages: What the destination passed on: all of it is committed.
        state: What the request began with (``state.begin_run``). Checkpoints are folded into it.
        streams: The names of the streams whose history this request reads. A source that ends by
            itself and leaves one unfinished has failed.
        ending: Filled in by the stages before this one; errored streams are added here.
        barriers: Told of those that pass.
        beside_run: The request belongs to no run: the one in ``state`` stays as it is, and progress
            is that of the request.
        clock: Unix time in nanoseconds.
    """
    names = list(streams)
    previous = state.sync_run.progress if state.sync_run.HasField("progress") else None
    run = ProgressTracker(names, None if beside_run else previous, counts_others=True)
    request = ProgressTracker(names, counts_others=True)
    emitted_at = clock()
    if not beside_run:
        yield _engine_message(emitted_at, sync_run=state.sync_run)
    async for message in messages:
        stream = stream_name(message)
        if stream in ending.refused_streams:
            continue
        if message.HasField("barrier"):
            if barriers is not None:
                barriers.passed(message.barrier)
            continue
        if _accounts_for_refused(message, ending):
            continue
        if message.stream_status.HasField("errored"):
            ending.refused_streams.add(stream)
        sync_state.apply_checkpoint(state, message)
        request.observe(message)
        status_changed = run.observe(message)
        yield message
        now = clock()
        if status_changed or now - emitted_at >= PROGRESS_INTERVAL_NANOSECONDS:
            emitted_at = now
            yield _engine_message(now, progress=run.snapshot(now))
    ended_by_itself = not (ending.cut_short or ending.failure_message)
    if ended_by_itself and request.status == RUN_STATUS_STARTED:
        left = ", ".join(request.unfinished())
        ending.fail(f"the source ended without finishing these streams: {left}")
    now = clock()
    eof = _eof(state, run.snapshot(now), request.snapshot(now), ending, beside_run=beside_run)
    yield _engine_message(now, progress=eof.run_progress)
    yield _engine_message(now, eof=eof)


def _accounts_for_refused(message: Message, ending: Ending) -> bool:
    if not message.HasField("source_state") or message.source_state.stream:
        return False
    return not ending.refused_streams.issubset(message.source_state.excluded_streams)


def _eof(
    state: SyncState,
    run_progress: Progress,
    request_progress: Progress,
    ending: Ending,
    *,
    beside_run: bool,
) -> Eof:
    connection_failed = request_progress.connection_status.status == ConnectionStatus.STATUS_FAILED
    failed = bool(ending.failure_message) or connection_failed
    if failed:
        run_progress.derived.status = RUN_STATUS_FAILED
        request_progress.derived.status = RUN_STATUS_FAILED
    # A caller that loops on has_more would loop for ever on a connector that fails each time.
    has_more = ending.cut_short and not failed
    if not beside_run:
        finished = not (failed or ending.cut_short)
        sync_state.end_run(state, run_progress, has_more=has_more, finished=finished)
    return Eof(
        status=run_progress.derived.status,
        has_more=has_more,
        ending_state=state,
        run_progress=run_progress,
        request_progress=request_progress,
        failure_message=ending.failure_message,
    )


def _engine_message(
    now: int,
    *,
    sync_run: SyncRun | None = None,
    progress: Progress | None = None,
    eof: Eof | None = None,
) -> Message:
    message = Message(emitted_by="engine", sync_run=sync_run, progress=progress, eof=eof)
    message.ts.FromNanoseconds(now)
    return message
