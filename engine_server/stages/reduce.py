"""Last stage of a sync: folds messages into progress and state, and ends with the eof."""

import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Collection,
    Iterable,
    Sequence,
)

from engine_server import dead_letters
from engine_server.barriers import Barriers
from engine_server.progress.tracker import ProgressTracker
from engine_server.stages.ending import Ending
from engine_server.state import state as sync_state
from engine_server.state.stream_name import stream_name
from engine_server.state.stream_schemas import StreamSchemas
from pipesync.v1.message_pb2 import Message, StreamStatus
from pipesync.v1.progress_pb2 import (
    RUN_STATUS_FAILED,
    RUN_STATUS_STARTED,
    ConnectionStatus,
    Progress,
)
from pipesync.v1.state_pb2 import DeadLetter, Eof, Resumption, SyncRun, SyncState

PROGRESS_INTERVAL_NANOSECONDS = 200_000_000
# More rejected records than this in one run indicate a wrong table, not wrong records.
MAX_REJECTED_RECORDS = 1000


async def reduce(
    messages: AsyncIterator[Message],
    *,
    state: SyncState,
    streams: Iterable[str],
    ending: Ending,
    barriers: Barriers | None = None,
    beside_run: bool = False,
    schemas: StreamSchemas | None = None,
    resumption: Resumption | None = None,
    warnings: Sequence[Message] = (),
    caller_keeps_events: bool = False,
    clock: Callable[[], int] = time.time_ns,
) -> AsyncGenerator[Message, None]:
    """Yield the run, ``messages`` interleaved with progress, the last progress and the eof.

    Progress is yielded at most five times a second, and whenever a stream changes status. Messages
    of a stream after it errored are dropped, so that no later checkpoint or status hides the error,
    and so are shared checkpoints that cover it. Barriers and the count of kept rejected records are
    consumed here.

    This stage makes a stream errored if too many of its records are rejected: a destination only
    counts those of one write, and a run may take many requests.

    Args:
        messages: Messages from the destination, all of them committed.
        state: State at the start of the request (``state.begin_run``), updated in place.
        streams: Names of the streams whose history this request reads. A source that ends without
            a limit and leaves one of them unfinished has failed.
        ending: Causes of the end from the previous stages; errored streams are added here.
        barriers: Gets the barriers that pass.
        beside_run: Whether the request belongs to no run: the run in ``state`` is then left
            unchanged, and progress is that of the request.
        schemas: Observes the messages, and supplies a part of the eof.
        resumption: Sent after the run, and repeated in the eof; None if nothing was compared.
        warnings: Sent after the resumption.
        caller_keeps_events: Whether the caller pushed events that it can send again. If some fail
            by themselves, the request fails, and the eof lists them only if all others are
            committed.
        clock: Returns the Unix time in nanoseconds.
    """
    names = list(streams)
    previous = state.sync_run.progress if state.sync_run.HasField("progress") else None
    rewound = _rewound(resumption, names)
    run = ProgressTracker(
        names, None if beside_run else previous, counts_others=True, rewound=rewound
    )
    request = ProgressTracker(names, counts_others=True, rewound=rewound)
    committed_anything = has_advanced = False
    letters: list[DeadLetter] = []
    emitted_at = clock()
    if not beside_run:
        yield _engine_message(emitted_at, sync_run=state.sync_run)
    if resumption is not None:
        yield _engine_message(emitted_at, resumption=resumption)
    for warning in warnings:
        warning.ts.FromNanoseconds(emitted_at)
        yield warning
    async for message in messages:
        stream = stream_name(message)
        if stream in ending.errored_streams:
            continue
        if message.HasField("barrier"):
            if barriers is not None:
                barriers.passed(message.barrier)
            continue
        if message.HasField("inputs_end"):
            if message.inputs_end.HasField("position") and not ending.errored_streams.names:
                state.inputs_position.CopyFrom(message.inputs_end.position)
            continue
        if message.HasField("rejected_records"):
            ending.held_rejected_record_count = message.rejected_records.held_record_count
            continue
        if _accounts_for_refused(message, ending):
            continue
        if message.stream_status.HasField("errored"):
            ending.errored_streams.add(stream)
        if message.HasField("dead_letter"):
            letters.append(message.dead_letter)
        is_new_checkpoint = sync_state.apply_checkpoint(state, message)
        if schemas is not None:
            schemas.observe(message)
        request.observe(message)
        status_changed = run.observe(message)
        is_final = status_changed and not message.stream_status.HasField("started")
        has_advanced = has_advanced or is_new_checkpoint or is_final
        committed_anything = (
            committed_anything or has_advanced or bool(message.record_batch.records)
        )
        yield message
        now = clock()
        if run.rejected_record_count(stream) > MAX_REJECTED_RECORDS:
            errored = _too_many_rejected(stream, now, message.emitted_by)
            ending.errored_streams.add(stream)
            request.observe(errored)
            status_changed |= run.observe(errored)
            yield errored
        if status_changed or now - emitted_at >= PROGRESS_INTERVAL_NANOSECONDS:
            emitted_at = now
            yield _engine_message(now, progress=run.snapshot(now))
    ended_by_itself = not (ending.cut_short or ending.failure_message)
    if ended_by_itself and request.status == RUN_STATUS_STARTED:
        left = ", ".join(request.unfinished())
        ending.fail(f"the source ended without finishing these streams: {left}")
    if caller_keeps_events:
        letters = _failed_pushed_events(letters, request, ending)
    # Records without checkpoints are read again if another request owns the checkpoints.
    has_committed = has_advanced if ending.has_lost_checkpoints else committed_anything
    limit_message = _limit_message(state, ending, committed_anything=has_committed)
    now = clock()
    eof = _eof(state, run.snapshot(now), request.snapshot(now), ending, beside_run=beside_run)
    eof.limit_message = limit_message
    if schemas is not None:
        eof.outdated_streams.extend(schemas.outdated())
        eof.renewed_streams.extend(schemas.renewed)
    eof.dead_letters.extend(dead_letters.listed(letters))
    if resumption is not None:
        eof.rewound_streams.extend(resumption.rewound_streams)
        eof.account_id = resumption.account_id
        if resumption.HasField("lost_inputs"):
            eof.lost_inputs.CopyFrom(resumption.lost_inputs)
        if resumption.state.HasField("inputs_position"):
            eof.beginning_inputs_position.CopyFrom(resumption.state.inputs_position)
    yield _engine_message(now, progress=eof.run_progress)
    yield _engine_message(now, eof=eof)


def _rewound(resumption: Resumption | None, names: Collection[str]) -> dict[str, str]:
    """Return the reason by name of each read stream that is rewound."""
    if resumption is None:
        return {}
    return {each.stream: each.reason for each in resumption.rewound_streams if each.stream in names}


def _too_many_rejected(stream: str, now: int, emitted_by: str) -> Message:
    reason = (
        f"more than {MAX_REJECTED_RECORDS:,} records of {stream} were rejected in this run, so "
        "its table seems wrong: the destination keeps them, and says why"
    )
    status = StreamStatus(stream=stream, errored=StreamStatus.Errored(error=reason))
    message = Message(emitted_by=emitted_by, stream_status=status)
    message.ts.FromNanoseconds(now)
    return message


def _accounts_for_refused(message: Message, ending: Ending) -> bool:
    if not message.HasField("source_state") or message.source_state.stream:
        return False
    return not ending.errored_streams.names.issubset(message.source_state.excluded_streams)


def _limit_message(state: SyncState, ending: Ending, *, committed_anything: bool) -> str:
    """Return why a limit ended the request before anything was committed; empty otherwise.

    After ``MAX_EMPTY_REQUESTS`` such requests in a row, the request fails, because a caller that
    loops on ``has_more`` would never finish.
    """
    if ending.is_shut_down and not (committed_anything or ending.failure_message):
        # A shutdown does not show whether the limit is too short.
        return ""
    is_without_progress = ending.is_out_of_time or ending.has_lost_checkpoints
    is_empty = is_without_progress and not (committed_anything or ending.is_listening)
    if ending.failure_message or not is_empty:
        sync_state.reset_empty_request_count(state)
        return ""
    message = (
        "nothing was committed, as another request took over the checkpoints that the destination"
        " recorded, or they were removed; let one request at a time go on from a state"
        if ending.has_lost_checkpoints
        else f"nothing was committed within the {ending.describe_limit()}; allow more time than"
        " that takes"
    )
    if sync_state.count_empty_request(state):
        ending.fail(f"{sync_state.MAX_EMPTY_REQUESTS} requests in a row ended like this: {message}")
    return message


def _failed_pushed_events(
    letters: list[DeadLetter], request: ProgressTracker, ending: Ending
) -> list[DeadLetter]:
    """Return the pushed events that failed by themselves; none if others may be uncommitted.

    An older caller, which only checks for a failure, sends all events again.
    """
    is_unsure = ending.cut_short or ending.failure_message or request.status == RUN_STATUS_FAILED
    if is_unsure or not letters:
        return []
    first, count = letters[0], len(letters)
    ending.fail(
        f"event {first.event_id} failed: {first.reason}"
        if count == 1
        else f"{count} events failed, the first of them {first.event_id}: {first.reason}"
    )
    return letters


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
    elif ending.has_lost_checkpoints:
        run_progress.derived.status = RUN_STATUS_STARTED
        request_progress.derived.status = RUN_STATUS_STARTED
    # With has_more, a caller would loop forever on a connector that fails each time.
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
        held_rejected_record_count=ending.held_rejected_record_count,
        compared_event_ids=sorted(ending.compared_event_ids),
    )


def _engine_message(
    now: int,
    *,
    sync_run: SyncRun | None = None,
    progress: Progress | None = None,
    eof: Eof | None = None,
    resumption: Resumption | None = None,
) -> Message:
    message = Message(
        emitted_by="engine", sync_run=sync_run, progress=progress, eof=eof, resumption=resumption
    )
    message.ts.FromNanoseconds(now)
    return message
