"""Position of each pipeline's inputs at its destination."""

from dataclasses import dataclass

from pipesync.v1.state_pb2 import CheckpointPosition
from service_server.store.database import Connection
from service_server.store.queries import load_queries

_SQL = load_queries("inputs.sql")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredInputs:
    """Inputs that a destination has committed, and those that the service can send again.

    Attributes:
        series: Number of the series; it grows when earlier positions lose their meaning.
        position: Position of the last committed inputs; None if none is recorded.
        replayable: Position after which all webhook events of the series are kept; None with
            ``position``.
    """

    series: int = 1
    position: CheckpointPosition | None = None
    replayable: CheckpointPosition | None = None


async def move(
    connection: Connection,
    pipeline_id: str,
    before: StoredInputs,
    after: StoredInputs,
    *,
    kept_behind: int | None = None,
) -> bool:
    """Replace ``before`` by ``after``.

    Args:
        connection: The connection to write to.
        pipeline_id: Id of the pipeline.
        before: The expected series and position.
        after: The new values. Without ``replayable``, the stored one stays.
        kept_behind: Number after which all events still have to be kept; None if that is not
            required.

    Returns:
        False if the stored values, or the kept events, are no longer the expected ones.
    """
    return bool(
        await connection.fetchval(
            _SQL["move"],
            pipeline_id,
            before.series,
            *_columns(before.position),
            after.series,
            *_columns(after.position),
            *_columns(after.replayable),
            kept_behind,
        )
    )


async def forget(connection: Connection, pipeline_id: str) -> StoredInputs:
    """Begin another series without a position, and return it."""
    series = await connection.fetchval(_SQL["forget"], pipeline_id)
    return StoredInputs(series=series or 1)


def _columns(position: CheckpointPosition | None) -> tuple[str | None, int | None]:
    return (position.epoch, position.number) if position is not None else (None, None)
