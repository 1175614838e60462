"""What a request goes on from, and what it hands back."""

from google.protobuf.timestamp_pb2 import Timestamp

from pipesync.v1.engine_service_pb2 import SyncOptions
from pipesync.v1.message_pb2 import Message
from pipesync.v1.progress_pb2 import Progress
from pipesync.v1.state_pb2 import SyncState


def begin_run(
    options: SyncOptions, now_nanoseconds: int, *, can_reconcile: bool = True
) -> SyncState:
    """The state that a request starts with.

    A request continues the run in its state when both bear the same run_id. One without a run_id
    continues an earlier one without, if that was cut short: only then does the state hold its
    time_ceiling (see ``end_run``). Otherwise a new run begins: source and destination checkpoints
    are kept, those of streams only unless the run reconciles, progress starts over, and the ceiling
    is the end of the second that has begun. One without a run_id that is to reconcile continues
    none that does not. A run that takes the place of an unfinished one that reconciles goes on with
    that, where the connectors can: else what was not compared yet would never be.

    The progress of a state that continues a run is set; that of a new run is absent.
    """
    state = SyncState()
    state.CopyFrom(options.state)
    run = state.sync_run
    is_other_kind = not options.run_id and options.reconcile and not run.reconcile
    if run.run_id == options.run_id and run.HasField("time_ceiling") and not is_other_kind:
        return state
    is_unfinished_reconcile = run.reconcile and not run.finished
    state.ClearField("sync_run")
    if options.reconcile:
        state.source.streams.clear()
    if options.reconcile or (is_unfinished_reconcile and can_reconcile):
        state.sync_run.reconcile = True
    state.sync_run.run_id = options.run_id
    state.sync_run.time_ceiling.CopyFrom(ceiling(now_nanoseconds))
    return state


def ceiling(now_nanoseconds: int) -> Timestamp:
    """Where what is read now ends in time: with the second that has begun.

    Sources filter by whole seconds, and whoever makes a record and syncs at once finds it.
    """
    return Timestamp(seconds=now_nanoseconds // 1_000_000_000 + 1)


# The request in a row that ends a run whose requests commit nothing before their limit.
LAST_EMPTY_REQUEST = 3


def apply_checkpoint(state: SyncState, message: Message) -> bool:
    """Puts a message's checkpoint, if it is one, in the place of the one before it.

    So is its position; one without a position has no place among those that were recorded.

    Returns:
        Whether it differs from that.
    """
    if not message.HasField("source_state"):
        return False
    checkpoint = message.source_state
    if checkpoint.stream:
        before = state.source.streams.get(checkpoint.stream)
        state.source.streams[checkpoint.stream] = checkpoint.data
    else:
        before = getattr(state.source, "global")
        setattr(state.source, "global", checkpoint.data)
    if checkpoint.HasField("position"):
        state.positions[checkpoint.stream].CopyFrom(checkpoint.position)
    else:
        state.positions.pop(checkpoint.stream, None)
    return before != checkpoint.data


def has_no_checkpoints(state: SyncState) -> bool:
    """Whether everything is still to be read."""
    return not state.source.streams and not getattr(state.source, "global")


def count_empty_request(state: SyncState) -> bool:
    """Counts a request that a limit in time ended before anything was committed.

    Returns:
        Whether it is the last in a row, so that the caller should not go on: the count then begins
        anew.
    """
    count = state.sync_run.empty_request_count + 1
    state.sync_run.empty_request_count = count if count < LAST_EMPTY_REQUEST else 0
    return count >= LAST_EMPTY_REQUEST


def end_row_of_empty_requests(state: SyncState) -> None:
    """Begins the count anew, where there is one."""
    if state.sync_run.empty_request_count:
        state.sync_run.empty_request_count = 0


def end_run(
    state: SyncState, run_progress: Progress, *, has_more: bool, finished: bool = False
) -> None:
    """Completes the state that a request hands back.

    A request without a run_id froze its ceiling only for the requests that finish its work; once
    it is finished, the next one reads up to its own now.
    """
    state.sync_run.progress.CopyFrom(run_progress)
    state.sync_run.finished = finished
    if not state.sync_run.run_id and not has_more:
        state.sync_run.ClearField("time_ceiling")
