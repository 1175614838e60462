"""Forgets the runs that are older than somebody wants to look back."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta

import structlog

from service_server.errors import StoreUnavailable
from service_server.store import runs
from service_server.store.database import Database

_log = structlog.get_logger(__name__)

# Small enough that a statement keeps nobody waiting.
_PIPELINES_AT_ONCE = 100
_RUNS_AT_ONCE = 10
_INTERVAL = 3600.0


@asynccontextmanager
async def pruning(database: Database, keep: timedelta) -> AsyncIterator[None]:
    """Forgets old runs at the beginning of the body, and every hour of it."""
    task = asyncio.create_task(_prune_for_ever(database, keep))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def prune_runs(database: Database, before: datetime) -> int:
    """Forgets every run that started before a time, but for the latest of each pipeline.

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
            if not count:
                break


async def _prune_for_ever(database: Database, keep: timedelta) -> None:
    while True:
        try:
            count = await prune_runs(database, datetime.now(UTC) - keep)
            if count:
                _log.info("runs_pruned", count=count)
        except StoreUnavailable as error:
            _log.warning("runs_not_pruned", error=str(error))
        await asyncio.sleep(_INTERVAL)
