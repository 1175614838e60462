"""Folds a sync's messages into progress and state, and ends them with the eof that says it all."""

import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Collection,
    Iterable,
    Sequence,
)
from dataclasses import dataclass, field

from engine_server import dead_letters
from engine_server import state as sync_state
from engine_server.barriers import Barriers
from engine_server.progress.tracker import ProgressTracker
from engine_server.stream_name import stream_name
from engine_server.stream_schemas import StreamSchemas
from pipesync.v1.message_pb2 import Message, StreamStatus
from pipesync.v1.progress_pb2 import (
    RUN_STATUS_FAILED,
    RUN_STATUS_STARTED,
    ConnectionStatus,
    Progress,
)
from pipesync.v1.state_pb2 import DeadLetter, Eof, Resumption, SyncRun, SyncState

PROGRESS_INTERVAL_NANOSECONDS = 200_000_000
# When more records of a stream are rejected in one run, its table is wrong, and not the records.
MOST_REJECTED_RECORDS = 1000


@dataclass(slots=True)
class Ending:
    """How a request comes to its end, noted by the stages as it happens.

    Attributes:
        cut_short: A limit, a deadline or a shutdown ended it.
        failure_message: Why a connector could not go on; empty while none failed.
        refused_streams: The streams that errored, in the source or in the destination, or in an
            earlier request of the run.
        is_out_of_time: A limit in time ended it, before any shutdown did.
        is_shut_down: A shutdown ended it, before any limit in time did.
        is_listening: The source had nothing to yield, and waited for what happens.
        has_lost_checkpoints: Another request took the recorded checkpoints over, or they were
            removed.
        describe_limit: Names the limits in time, and how long the source took.
        held_rejected_record_count: How many rejected records the destination says it keeps.
        compared_event_ids: The pushed events that were compared with what the destination holds.
    """

    cut_short: bool = False
    failure_message: str = ""
    refused_streams: set[str] = field(default_factory=set)
    is_out_of_time: bool = False
    is_shut_down: bool = False
    is_listening: bool = False
    has_lost_checkpoints: bool = False
    describe_limit: Callable[[], str] = lambda: "time limit"
    held_rejected_record_count: int = 0
    compared_event_ids: set[str] = field(default_factory=set)

    def cut(self) -> None:
        """Notes that a limit was reached."""
        self.cut_short = True

    def run_out_of_time(self) -> None:
        """Notes that a limit in time was reached."""
        self.cut_short = True
        self.is_out_of_time = not self.is_shut_down

    def shut_down(self) -> None:
        """Notes that a shutdown ended the reading."""
        self.cut_short = True
        self.is_shut_down = not self.is_out_of_time

    def wait_for_events(self) -> None:
        """Notes that the source had nothing to yield, and yields what happens from now on."""
        self.is_listening = True

    def lose_checkpoints(self) -> None:
        """Notes that the next request has to compare anew."""
        self.cut_short = True
        self.has_lost_checkpoints = True

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
    schemas: StreamSchemas | None = None,
    resumption: Resumption | None = None,
    warnings: Sequence[Message] = (),
    senders_keep_events: bool = False,
    clock: Callable[[], int] = time.time_ns,
) -> AsyncGenerator[Message, None]:
    """Yields the run, ``messages`` with progress among them, the last progress and the eof.

    Progress is yielded five times a second at most, and whenever a stream changes status. What
    comes of a stream after it errored is dropped: no later checkpoint or status hides an error, and
    no checkpoint of all streams accounts for it. Barriers end here, and so does the count of
    rejected records that are kept.

    A stream of which too many records are rejected errors here: a destination counts those of one
    write, and a run may take many requests.

    Args:
        messages: What the destination passed on: all of it is committed.
        state: What the request began with (``state.begin_run``). Checkpoints are folded into it.
        streams: The names of the streams whose history this request reads. A source that ends by
            itself and leaves one unfinished has failed.
        ending: Filled in by the stages before this one; errored streams are added here.
        barriers: Told of those that pass.
        beside_run: The request belongs to no run: the one in ``state`` stays as it is, and progress
            is that of the request.
        schemas: Told of what passes; part of the eof follows from it.
        resumption: Sent behind the run, and repeated by the eof; None where nothing was compared.
        warnings: Sent behind that.
        senders_keep_events: The caller pushed events, and has those that failed by themselves: the
            request fails, and the eof lists them only where all others are committed.
        clock: Unix time in nanoseconds.
    """
    names = list(streams)
    previous = state.sync_run.progress if state.sync_run.HasField("progress") else None
    rewound = _rewound(resumption, names)
    run = ProgressTracker(
        names, None if beside_run else previous, counts_others=True, rewound=rewound
    )
    request = ProgressTracker(names, counts_others=True, rewound=rewound)
    committed_anything = has_gone_on = False
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
        if stream in ending.refused_streams:
            continue
        if message.HasField("barrier"):
            if barriers is not None:
                barriers.passed(message.barrier)
            continue
        if message.HasField("inputs_end"):
            if message.inputs_end.HasField("position") and not ending.refused_streams:
                state.inputs_position.CopyFrom(message.inputs_end.position)
            continue
        if message.HasField("rejected_records"):
            ending.held_rejected_record_count = message.rejected_records.held_record_count
            continue
        if _accounts_for_refused(message, ending):
            continue
        if message.stream_status.HasField("errored"):
            ending.refused_streams.add(stream)
        if message.HasField("dead_letter"):
            letters.append(message.dead_letter)
        is_new_checkpoint = sync_state.apply_checkpoint(state, message)
        if schemas is not None:
            schemas.observe(message)
        request.observe(message)
        status_changed = run.observe(message)
        is_final = status_changed and not message.stream_status.HasField("started")
        has_gone_on = has_gone_on or is_new_checkpoint or is_final
        committed_anything = committed_anything or has_gone_on or bool(message.record_batch.records)
        yield message
        now = clock()
        if run.rejected_record_count(stream) > MOST_REJECTED_RECORDS:
            errored = _too_many_rejected(stream, now, message.emitted_by)
            ending.refused_streams.add(stream)
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
    if senders_keep_events:
        letters = _returned(letters, request, ending)
    # Records alone are read again where their checkpoints belong to another request.
    has_committed = has_gone_on if ending.has_lost_checkpoints else committed_anything
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
    """Why streams went back, of those that are read."""
    if resumption is None:
        return {}
    return {each.stream: each.reason for each in resumption.rewound_streams if each.stream in names}


def _too_many_rejected(stream: str, now: int, emitted_by: str) -> Message:
    reason = (
        f"more than {MOST_REJECTED_RECORDS:,} records of {stream} were rejected in this run, so "
        "its table seems wrong: the destination keeps them, and says why"
    )
    status = StreamStatus(stream=stream, errored=StreamStatus.Errored(error=reason))
    message = Message(emitted_by=emitted_by, stream_status=status)
    message.ts.FromNanoseconds(now)
    return message


def _accounts_for_refused(message: Message, ending: Ending) -> bool:
    if not message.HasField("source_state") or message.source_state.stream:
        return False
    return not ending.refused_streams.issubset(message.source_state.excluded_streams)


def _limit_message(state: SyncState, ending: Ending, *, committed_anything: bool) -> str:
    """Why a limit ended the request before anything was committed; empty when none did.

    The last such request in a row fails: a caller that loops on has_more would never come to an
    end.
    """
    if ending.is_shut_down and not (committed_anything or ending.failure_message):
        # It tells nothing about the limit.
        return ""
    is_without_progress = ending.is_out_of_time or ending.has_lost_checkpoints
    is_empty = is_without_progress and not (committed_anything or ending.is_listening)
    if ending.failure_message or not is_empty:
        sync_state.end_row_of_empty_requests(state)
        return ""
    message = (
        "nothing was committed, as another request took over the checkpoints that the destination"
        " recorded, or they were removed; let one request at a time go on from a state"
        if ending.has_lost_checkpoints
        else f"nothing was committed within the {ending.describe_limit()}; allow more time than"
        " that takes"
    )
    if sync_state.count_empty_request(state):
        ending.fail(f"{sync_state.LAST_EMPTY_REQUEST} requests in a row ended like this: {message}")
    return message


def _returned(
    letters: list[DeadLetter], request: ProgressTracker, ending: Ending
) -> list[DeadLetter]:
    """The pushed events that failed by themselves: none where it is unsure what became of others.

    An older caller, which looks at the failure alone, sends all of them again.
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
