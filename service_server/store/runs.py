"""The record of each pipeline's runs."""

from collections.abc import Sequence
from datetime import UTC, datetime

import asyncpg

from pipesync.v1.pipeline_service_pb2 import Run
from pipesync.v1.progress_pb2 import Progress
from service_server.store.database import Connection
from service_server.store.queries import load_queries

_SQL = load_queries("runs.sql")


async def put(connection: Connection, run: Run) -> None:
    """Stores how far ``run`` has come; the start time of a run that is known already stays."""
    await connection.execute(
        _SQL["put"],
        run.pipeline_id,
        run.run_id,
        run.status,
        run.start_time.ToDatetime(tzinfo=UTC),
        run.end_time.ToDatetime(tzinfo=UTC) if run.HasField("end_time") else None,
        run.progress.SerializeToString(),
        run.failure_message,
    )


async def list_newest_first(
    connection: Connection, pipeline_id: str, limit: int, *, after: tuple[datetime, str] | None
) -> list[Run]:
    """At most ``limit`` runs of a pipeline, the newest first.

    Args:
        connection: Where to read.
        pipeline_id: Whose runs.
        limit: How many at most.
        after: Start time and id of the run that the answer follows; None starts at the newest.
    """
    if after is None:
        rows = await connection.fetch(_SQL["list_first"], pipeline_id, limit)
    else:
        rows = await connection.fetch(_SQL["list_after"], pipeline_id, limit, *after)
    return [_run(row) for row in rows]


async def pipelines_after(connection: Connection, pipeline_id: str, limit: int) -> list[str]:
    """At most ``limit`` ids of pipelines in their order, those after ``pipeline_id``."""
    return [
        row["id"] for row in await connection.fetch(_SQL["pipelines_after"], pipeline_id, limit)
    ]


async def prune(
    connection: Connection, pipeline_ids: Sequence[str], before: datetime, limit: int
) -> int:
    """Forgets old runs of some pipelines, but for the latest of each.

    Args:
        connection: Where to delete.
        pipeline_ids: Whose runs.
        before: Those that started earlier.
        limit: How many of each pipeline at most.

    Returns:
        How many were forgotten.
    """
    tag = await connection.execute(_SQL["prune"], pipeline_ids, before, limit)
    return int(tag.rpartition(" ")[2])


def _run(row: asyncpg.Record) -> Run:
    return Run(
        run_id=row["run_id"],
        pipeline_id=row["pipeline_id"],
        status=row["status"],
        start_time=row["start_time"],
        end_time=row["end_time"],
        progress=Progress.FromString(row["progress"]),
        failure_message=row["failure_message"],
    )
