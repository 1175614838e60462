"""History of each pipeline's runs."""

from collections.abc import Sequence
from datetime import UTC, datetime

import asyncpg

from pipesync.v1.pipeline_service_pb2 import Run
from pipesync.v1.progress_pb2 import Progress
from service_server.store.database import Connection
from service_server.store.page_bytes import PAGE_BYTES
from service_server.store.queries import load_queries

_SQL = load_queries("runs.sql")


async def put(connection: Connection, run: Run) -> None:
    """Store a run; the start time of a stored one stays."""
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
    connection: Connection,
    pipeline_id: str,
    limit: int,
    *,
    after: tuple[datetime, str] | None,
    max_bytes: int = PAGE_BYTES,
) -> tuple[list[Run], bool]:
    """Return runs of a pipeline, the newest first.

    Args:
        connection: The connection to read from.
        pipeline_id: Id of the pipeline.
        limit: Maximum number of runs.
        after: Start time and id of the run that they follow; None starts at the newest.
        max_bytes: Approximate maximum of their total size. The first one is returned even if it
            alone is larger.

    Returns:
        The runs, and whether more follow.
    """
    if after is None:
        rows = await connection.fetch(_SQL["list_first"], pipeline_id, limit, max_bytes)
    else:
        rows = await connection.fetch(_SQL["list_after"], pipeline_id, limit, max_bytes, *after)
    return [_run(row) for row in rows], bool(rows) and rows[0]["found"] > len(rows)


async def pipelines_after(connection: Connection, pipeline_id: str, limit: int) -> list[str]:
    """Return at most ``limit`` ids of pipelines after ``pipeline_id``, in order."""
    return [
        row["id"] for row in await connection.fetch(_SQL["pipelines_after"], pipeline_id, limit)
    ]


async def prune(
    connection: Connection, pipeline_ids: Sequence[str], before: datetime, limit: int
) -> int:
    """Delete old runs of pipelines, except the latest run of each.

    Args:
        connection: The connection to write to.
        pipeline_ids: Ids of the pipelines.
        before: Time before which the runs started.
        limit: Maximum number of runs of each pipeline.

    Returns:
        The number of deleted runs.
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
