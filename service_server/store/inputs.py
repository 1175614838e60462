"""The position of each pipeline's inputs at its destination."""

from dataclasses import dataclass

from pipesync.v1.state_pb2 import CheckpointPosition
from service_server.store.database import Connection
from service_server.store.queries import load_queries

_SQL = load_queries("inputs.sql")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredInputs:
    """The inputs that a destination has committed, and those that it may be sent again.

    Attributes:
        series: Grows when earlier positions lose their meaning.
        position: Of the last inputs that were committed; None when none is recorded.
        replayable: All webhook events of the series with a later position are kept; None with
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
    """Store ``after`` in the place of ``before``; False when something else is stored by now.

    Args:
        connection: Where to store.
        pipeline_id: Of the pipeline.
        before: The series and the position that are expected.
        after: Without ``replayable``, that stays as it is.
        kept_behind: Events with a later number have to be kept still; None when none need be.
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
    """Begin another series, without a position, and return it."""
    series = await connection.fetchval(_SQL["forget"], pipeline_id)
    return StoredInputs(series=series or 1)


def _columns(position: CheckpointPosition | None) -> tuple[str | None, int | None]:
    return (position.epoch, position.number) if position is not None else (None, None)
