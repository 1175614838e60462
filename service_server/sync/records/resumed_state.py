"""State and inputs position that a call with inputs resumed from, and their storage.

A call with inputs, which applies events, may run while a sync of the same pipeline does.
"""

from pipesync.v1.pipeline_service_pb2 import PIPELINE_STATUS_BACKFILL
from pipesync.v1.state_pb2 import Eof, Resumption, SyncRun, SyncState
from service_server.store import lifecycles, pipelines, states
from service_server.store.database import Connection
from service_server.store.states import StoredState
from service_server.sync.records.inputs import CallInputs
from service_server.sync.records.rewinds import describe_rewinds


async def store_resumed_state(
    connection: Connection,
    pipeline_id: str,
    before: StoredState,
    found: Resumption | Eof,
    inputs: CallInputs,
) -> bool:
    """Store the state that a call with inputs resumed from, and the position of its inputs.

    Args:
        connection: Connection with an open transaction.
        pipeline_id: The pipeline.
        before: The state as it was stored when the call began.
        found: The call's resumption or eof.
        inputs: The position that the call reached.

    Returns:
        Whether the position is stored. It is not stored if another call has meanwhile stored a
        position, a state of another lineage, or a state that does not make up for the lost
        inputs. The next call compares again.
    """
    is_stored = await _store_state(connection, pipeline_id, before, found)
    if not is_stored and (found.lost_inputs.covered_by_reread or _began_lineage(before, found)):
        return False
    return await inputs.store(connection)


def resumed_state(before: StoredState, found: Resumption | Eof) -> SyncState | None:
    """Return the state that the next sync continues from, after a call with inputs compared it.

    Args:
        before: The state as it was stored when the call began.
        found: The call's resumption or eof.

    Returns:
        The state to store, or None if it is stored already.
    """
    resumed = _resumed(found)
    if not resumed.destination:
        return None
    after = states.without_inputs(resumed)
    own = before.state if before.state is not None else SyncState()
    # The count is of requests for history that committed nothing; calls with events leave it.
    after.sync_run.empty_request_count = own.sync_run.empty_request_count
    if after.sync_run == SyncRun() and not own.HasField("sync_run"):
        after.ClearField("sync_run")
    return after if after != states.without_inputs(own) else None


def _resumed(found: Resumption | Eof) -> SyncState:
    return found.state if isinstance(found, Resumption) else found.ending_state


def _began_lineage(before: StoredState, found: Resumption | Eof) -> bool:
    """Return whether the call began a lineage because it found none, as a concurrent sync may."""
    own = before.state.destination if before.state is not None else ""
    return _resumed(found).destination != own


async def _store_state(
    connection: Connection, pipeline_id: str, before: StoredState, found: Resumption | Eof
) -> bool:
    """Store the resumed state, and return whether it is stored now or was before.

    If a sync has stored another state meanwhile, that state stays: the sync compares by itself.
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
