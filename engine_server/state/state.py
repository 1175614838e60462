"""State that a request starts with and returns."""

from google.protobuf.timestamp_pb2 import Timestamp

from pipesync.v1.engine_service_pb2 import SyncOptions
from pipesync.v1.message_pb2 import Message
from pipesync.v1.progress_pb2 import Progress
from pipesync.v1.state_pb2 import SyncState


def begin_run(
    options: SyncOptions, now_nanoseconds: int, *, can_reconcile: bool = True
) -> SyncState:
    """Return the state that a request starts with.

    The request continues the run in its state if both have the same ``run_id``. Without a
    ``run_id``, it continues a run without one that was cut short: only such a state has a
    ``time_ceiling`` (see ``end_run``). However, a reconciling request without a ``run_id`` does not
    continue a run that does not reconcile.

    Otherwise a new run begins: progress starts over, and the time ceiling is the end of the current
    second. Checkpoints are kept, except that a reconciling run drops those of the streams. A new
    run that replaces an unfinished reconciling run reconciles as well, if the connectors support
    it: otherwise records that were not compared yet would never be.

    ``sync_run.progress`` is set in a continued run, and absent in a new one.
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
    """Return the time ceiling of a run that begins now: the end of the current second.

    Sources filter by whole seconds. With the end of the second, a sync includes records that were
    created just before it.
    """
    return Timestamp(seconds=now_nanoseconds // 1_000_000_000 + 1)


# Number of consecutive requests that may commit nothing before their limit; the last one fails.
MAX_EMPTY_REQUESTS = 3


def apply_checkpoint(state: SyncState, message: Message) -> bool:
    """Store the checkpoint of a message with its position; ignore other messages.

    A checkpoint without a position removes the stored position.

    Returns:
        Whether the message is a checkpoint that differs from the previous one.
    """
    if not message.HasField("source_state"):
        return False
    checkpoint = message.source_state
    if checkpoint.stream:
        before = state.source.streams.get(checkpoint.stream)
        state.source.streams[checkpoint.stream] = checkpoint.data
    else:
        before = state.source.shared
        state.source.shared = checkpoint.data
    if checkpoint.HasField("position"):
        state.positions[checkpoint.stream].CopyFrom(checkpoint.position)
    else:
        state.positions.pop(checkpoint.stream, None)
    return before != checkpoint.data


def has_no_checkpoints(state: SyncState) -> bool:
    """Return whether the state has no checkpoint at all."""
    return not state.source.streams and not state.source.shared


def count_empty_request(state: SyncState) -> bool:
    """Count a request that a time limit ended before anything was committed.

    Returns:
        Whether ``MAX_EMPTY_REQUESTS`` is reached, so that the caller should stop. The count then
        starts again.
    """
    count = state.sync_run.empty_request_count + 1
    state.sync_run.empty_request_count = count if count < MAX_EMPTY_REQUESTS else 0
    return count >= MAX_EMPTY_REQUESTS


def reset_empty_request_count(state: SyncState) -> None:
    """Reset the count, leaving a state without a count unchanged."""
    if state.sync_run.empty_request_count:
        state.sync_run.empty_request_count = 0


def end_run(
    state: SyncState, run_progress: Progress, *, has_more: bool, finished: bool = False
) -> None:
    """Complete the state that a request returns.

    Without a ``run_id``, the time ceiling is only kept while ``has_more``, for the requests that
    finish the run; the next run gets a ceiling of its own.
    """
    state.sync_run.progress.CopyFrom(run_progress)
    state.sync_run.finished = finished
    if not state.sync_run.run_id and not has_more:
        state.sync_run.ClearField("time_ceiling")
