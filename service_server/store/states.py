"""State that each pipeline's next sync continues from."""

from dataclasses import dataclass, field

from pipesync.v1.state_pb2 import CheckpointPosition, SyncState
from service_server.store import inputs
from service_server.store.database import Connection
from service_server.store.inputs import StoredInputs
from service_server.store.queries import load_queries

_SQL = load_queries("states.sql")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredState:
    """Everything that the next call to the engine continues from.

    Attributes:
        state: The latest state, with the position of the inputs; None if the pipeline has none.
        account_id: Id of the account that the state belongs to; empty if it is unknown.
        inputs: The position of the inputs, and those that are kept.
    """

    state: SyncState | None = None
    account_id: str = ""
    inputs: StoredInputs = field(default_factory=StoredInputs)


async def load(connection: Connection, pipeline_id: str) -> StoredState:
    """Return the latest state, its account and its inputs."""
    row = await connection.fetchrow(_SQL["get"], pipeline_id)
    if row is None:
        return StoredState()
    position = _position(row["epoch"], row["number"])
    state = None
    if row["sync_state"] is not None:
        state = SyncState.FromString(row["sync_state"])
        state.ClearField("inputs_position")
        if position is not None:
            state.inputs_position.CopyFrom(position)
    return StoredState(
        state=state,
        account_id=row["account_id"] or "",
        inputs=StoredInputs(
            series=row["series"] or 1,
            position=position,
            replayable=_position(row["replayable_epoch"], row["replayable_number"]),
        ),
    )


async def get(connection: Connection, pipeline_id: str) -> SyncState | None:
    """Return the latest state; None if the pipeline has none."""
    return (await load(connection, pipeline_id)).state


async def put(
    connection: Connection, pipeline_id: str, state: SyncState, account_id: str = ""
) -> None:
    """Store a state without the position of its inputs.

    Args:
        connection: The connection to write to.
        pipeline_id: Id of the pipeline.
        state: The state. ``inputs.move`` stores the position of its inputs, which are also applied
            during syncs.
        account_id: Id of the account that the state belongs to; empty leaves the stored one.
    """
    await connection.execute(_SQL["put"], pipeline_id, _serialized(state), account_id)


async def replace(
    connection: Connection,
    pipeline_id: str,
    before: SyncState | None,
    after: SyncState,
    account_id: str = "",
) -> bool:
    """Store ``after`` as ``put`` does if the stored state is ``before``; return whether it did."""
    if before is None:
        arguments = (pipeline_id, _serialized(after), account_id)
        return bool(await connection.fetchval(_SQL["insert"], *arguments))
    found = await connection.fetchval(_SQL["lock"], pipeline_id)
    if found is None or without_inputs(SyncState.FromString(found)) != without_inputs(before):
        return False
    await put(connection, pipeline_id, after, account_id)
    return True


async def is_of_other_lineage(
    connection: Connection, pipeline_id: str, state: SyncState, account_id: str = ""
) -> bool:
    """Return whether the stored state is of another lineage; store ``state`` if there is none.

    No other transaction stores a state until this one has ended.
    """
    arguments = (pipeline_id, _serialized(state), account_id)
    if await connection.fetchval(_SQL["insert"], *arguments):
        return False
    found = await connection.fetchval(_SQL["lock"], pipeline_id)
    return found is not None and SyncState.FromString(found).destination not in (
        "",
        state.destination,
    )


async def delete(connection: Connection, pipeline_id: str) -> None:
    """Delete the state, and begin a new series of inputs."""
    await connection.execute(_SQL["delete"], pipeline_id)
    await inputs.forget(connection, pipeline_id)


def without_inputs(state: SyncState) -> SyncState:
    """Return a copy of the state without the position of the inputs."""
    copy = SyncState()
    copy.CopyFrom(state)
    copy.ClearField("inputs_position")
    return copy


def _serialized(state: SyncState) -> bytes:
    return without_inputs(state).SerializeToString()


def _position(epoch: str | None, number: int | None) -> CheckpointPosition | None:
    if epoch is None or number is None:
        return None
    return CheckpointPosition(epoch=epoch, number=number)
