"""State that a call beside the pipeline's syncs finds to be other than it is stored."""

from pipesync.v1.pipeline_service_pb2 import PIPELINE_STATUS_BACKFILL
from pipesync.v1.state_pb2 import Eof, Resumption, SyncRun, SyncState
from service_server.inputs import CallInputs
from service_server.rewinds import describe_rewinds
from service_server.store import lifecycles, pipelines, states
from service_server.store.database import Connection
from service_server.store.states import StoredState


async def store_beside(
    connection: Connection,
    pipeline_id: str,
    before: StoredState,
    found: Resumption | Eof,
    inputs: CallInputs,
) -> bool:
    """Store what a call of inputs changed: where the next sync goes on from, and the position.

    Args:
        connection: Where to store.
        pipeline_id: Of the pipeline.
        before: As it was stored when the call began.
        found: What the call reported.
        inputs: The position that it came to.

    Returns:
        Whether the position is stored. It is not where another call has stored one since, or a
        state of another lineage, or one that does not make up for the inputs that are lost: the
        next call compares again.
    """
    is_stored = await _store_state(connection, pipeline_id, before, found)
    if not is_stored and (found.lost_inputs.covered_by_reread or _began_lineage(before, found)):
        return False
    return await inputs.store(connection)


def resumed_state(before: StoredState, found: Resumption | Eof) -> SyncState | None:
    """Return where the next sync goes on from, once a call of inputs has compared that.

    Args:
        before: As it was stored when the call began.
        found: What the call reported.

    Returns:
        None when that is stored already.
    """
    resumed = _resumed(found)
    if not resumed.destination:
        return None
    after = states.without_inputs(resumed)
    own = before.state if before.state is not None else SyncState()
    # A request for history that committed nothing counts; events count for themselves.
    after.sync_run.empty_request_count = own.sync_run.empty_request_count
    if after.sync_run == SyncRun() and not own.HasField("sync_run"):
        after.ClearField("sync_run")
    return after if after != states.without_inputs(own) else None


def _resumed(found: Resumption | Eof) -> SyncState:
    return found.state if isinstance(found, Resumption) else found.ending_state


def _began_lineage(before: StoredState, found: Resumption | Eof) -> bool:
    """Whether the call found no lineage to go on with, as the sync beside it did."""
    own = before.state.destination if before.state is not None else ""
    return _resumed(found).destination != own


async def _store_state(
    connection: Connection, pipeline_id: str, before: StoredState, found: Resumption | Eof
) -> bool:
    """Whether the state is stored, or was so before.

    A sync that has stored another one since compares by itself, and keeps what it stored.
    """
    after = resumed_state(before, found)
    if after is None:
        return True
    if not await states.replace(connection, pipeline_id, before.state, after, found.account_id):
        return False
    if found.rewound_streams:
        await pipelines.set_status_after_sync(
            connection,
            pipeline_id,
            PIPELINE_STATUS_BACKFILL,
            describe_rewinds(found.rewound_streams),
        )
        await lifecycles.wake(connection, pipeline_id)
    return True
