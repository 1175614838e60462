"""Pruning of the rows that the service keeps for a while only: runs and applied webhook events."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta

import structlog

from service_server.background.heartbeats import Heartbeats, Loop
from service_server.background.loop import BackgroundLoop
from service_server.store import inbox, runs
from service_server.store.database import Database

_log = structlog.get_logger(__name__)

# Limits of one statement, small enough that it blocks no other work for long.
_PIPELINES_AT_ONCE = 100
_RUNS_AT_ONCE = 10
_EVENTS_AT_ONCE = 1000
# Seconds between two rounds.
_RUNS_INTERVAL = 3600.0
_EVENTS_INTERVAL = 60.0

# Called after each statement, as a sign that a long round goes on.
OnProgress = Callable[[], None]


def pruning_runs(
    database: Database, keep: timedelta, heartbeats: Heartbeats
) -> AbstractAsyncContextManager[None]:
    """Delete old runs at the beginning of the body, and every hour of it."""

    def prune(on_progress: OnProgress) -> Awaitable[int]:
        return prune_runs(database, datetime.now(UTC) - keep, on_progress=on_progress)

    return _pruning(Loop.RUN_PRUNING, prune, "runs_pruned", _RUNS_INTERVAL, heartbeats)


def pruning_events(
    database: Database, age: timedelta, heartbeats: Heartbeats
) -> AbstractAsyncContextManager[None]:
    """Delete, every minute of the body, events that were applied longer ago than ``age``.

    Pending and dead-lettered events stay until their pipeline is deleted.
    """

    def prune(on_progress: OnProgress) -> Awaitable[int]:
        return prune_events(database, age, on_progress=on_progress)

    return _pruning(Loop.INBOX_PRUNING, prune, "inbox_pruned", _EVENTS_INTERVAL, heartbeats)


async def prune_runs(
    database: Database, before: datetime, *, on_progress: OnProgress = lambda: None
) -> int:
    """Delete every run that started before a time, except the latest run of each pipeline.

    Args:
        database: The database with the runs.
        before: The time.
        on_progress: Callback after each statement.

    Returns:
        The number of deleted runs.

    Raises:
        StoreUnavailable: The database is unavailable; earlier deletions are committed.
    """
    deleted, last_id = 0, ""
    while True:
        async with database.connection() as connection:
            ids = await runs.pipelines_after(connection, last_id, _PIPELINES_AT_ONCE)
        if not ids:
            return deleted
        last_id = ids[-1]
        while True:
            async with database.connection() as connection:
                count = await runs.prune(connection, ids, before, _RUNS_AT_ONCE)
            deleted += count
            on_progress()
            if not count:
                break


async def prune_events(
    database: Database, age: timedelta, *, on_progress: OnProgress = lambda: None
) -> int:
    """Delete all events that were applied longer ago than ``age``, and return their number.

    Args:
        database: The database with the inbox.
        age: Least time since the events were applied.
        on_progress: Callback after each statement.

    Raises:
        StoreUnavailable: The database is unavailable; earlier deletions are committed.
    """
    deleted = 0
    while True:
        async with database.connection() as connection:
            count = await inbox.prune(connection, age, _EVENTS_AT_ONCE)
        deleted += count
        on_progress()
        if count < _EVENTS_AT_ONCE:
            return deleted


def _pruning(
    name: Loop,
    prune: Callable[[OnProgress], Awaitable[int]],
    event: str,
    interval: float,
    heartbeats: Heartbeats,
) -> AbstractAsyncContextManager[None]:
    async def do_round() -> float:
        count = await prune(loop.beat)
        if count:
            _log.info(event, count=count)
        return interval

    loop = BackgroundLoop(name, do_round, heartbeats)
    return loop.running()
