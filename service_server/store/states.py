"""Where each pipeline's next sync goes on from."""

from pipesync.v1.state_pb2 import SyncState
from service_server.store.database import Connection
from service_server.store.queries import load_queries

_SQL = load_queries("states.sql")


async def get(connection: Connection, pipeline_id: str) -> SyncState | None:
    """The latest state; None when the pipeline has none."""
    stored = await connection.fetchval(_SQL["get"], pipeline_id)
    return SyncState.FromString(stored) if stored is not None else None


async def put(connection: Connection, pipeline_id: str, state: SyncState) -> None:
    """Stores ``state`` in place of the one before."""
    await connection.execute(_SQL["put"], pipeline_id, state.SerializeToString())


async def delete(connection: Connection, pipeline_id: str) -> None:
    """Forgets the state."""
    await connection.execute(_SQL["delete"], pipeline_id)
