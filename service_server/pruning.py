"""Forgets the runs that are older than somebody wants to look back."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta

import structlog

from service_server.background import BackgroundLoop
from service_server.heartbeats import Heartbeats, Loop
from service_server.store import runs
from service_server.store.database import Database

_log = structlog.get_logger(__name__)

# Small enough that a statement keeps nobody waiting.
_PIPELINES_AT_ONCE = 100
_RUNS_AT_ONCE = 10
_INTERVAL = 3600.0


def pruning(
    database: Database, keep: timedelta, heartbeats: Heartbeats | None = None
) -> AbstractAsyncContextManager[None]:
    """Delete old runs at the beginning of the body, and every hour of it."""

    async def prune() -> float:
        count = await prune_runs(database, datetime.now(UTC) - keep, on_progress=loop.beat)
        if count:
            _log.info("runs_pruned", count=count)
        return _INTERVAL

    loop = BackgroundLoop(Loop.RUN_PRUNING, prune, heartbeats or Heartbeats())
    return loop.running()


async def prune_runs(
    database: Database, before: datetime, *, on_progress: Callable[[], None] = lambda: None
) -> int:
    """Delete every run that started before a time, but for the latest of each pipeline.

    Args:
        database: Where the runs are.
        before: That time.
        on_progress: Called after each statement.

    Returns:
        How many.

    Raises:
        StoreUnavailable: the database is away; what was forgotten before stays so.
    """
    forgotten, last_id = 0, ""
    while True:
        async with database.connection() as connection:
            ids = await runs.pipelines_after(connection, last_id, _PIPELINES_AT_ONCE)
        if not ids:
            return forgotten
        last_id = ids[-1]
        while True:
            async with database.connection() as connection:
                count = await runs.prune(connection, ids, before, _RUNS_AT_ONCE)
            forgotten += count
            on_progress()
            if not count:
                break
