"""Deletes webhook events some time after they were applied."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import timedelta

import structlog

from service_server.background import BackgroundLoop
from service_server.heartbeats import Heartbeats, Loop
from service_server.store import inbox
from service_server.store.database import Database

_log = structlog.get_logger(__name__)

# How many are deleted in one transaction, so that none lasts.
_BATCH = 1000
# Seconds between two looks.
_INTERVAL = 60.0


def pruning_inbox(
    database: Database, age: timedelta, heartbeats: Heartbeats
) -> AbstractAsyncContextManager[None]:
    """Delete, during the body, events that were applied longer ago than ``age``.

    Those that are pending or set aside stay as long as their pipeline does.
    """

    async def prune_all() -> float:
        count = await prune(database, age, on_progress=loop.beat)
        if count:
            _log.info("inbox_pruned", count=count)
        return _INTERVAL

    loop = BackgroundLoop(Loop.INBOX_PRUNING, prune_all, heartbeats)
    return loop.running()


async def prune(
    database: Database, age: timedelta, *, on_progress: Callable[[], None] = lambda: None
) -> int:
    """Delete all that are due now, in small batches, and return their number.

    Args:
        database: Where the inbox is.
        age: How long ago they were applied, at least.
        on_progress: Called after each batch.
    """
    pruned = 0
    while True:
        async with database.connection() as connection:
            count = await inbox.prune(connection, age, _BATCH)
        on_progress()
        pruned += count
        if count < _BATCH:
            return pruned
