"""Forgets webhook events some time after they were applied."""

import asyncio
from datetime import timedelta

import structlog

from service_server.errors import StoreUnavailable
from service_server.store import inbox
from service_server.store.database import Database

_log = structlog.get_logger(__name__)

# How many are forgotten in one transaction, so that none lasts.
_BATCH = 1000
# Seconds between two looks.
_INTERVAL = 60.0


async def prune_by_and_by(database: Database, age: timedelta) -> None:
    """Forgets events that were applied longer ago than ``age``, until it is cancelled.

    Those that are pending or set aside stay as long as their pipeline does.
    """
    while True:
        try:
            pruned = await prune(database, age)
        except StoreUnavailable as error:
            _log.warning("inbox_not_pruned", error=str(error))
        except Exception:
            _log.exception("inbox_not_pruned")
        else:
            if pruned:
                _log.info("inbox_pruned", count=pruned)
        await asyncio.sleep(_INTERVAL)


async def prune(database: Database, age: timedelta) -> int:
    """Forgets all that are due now, in small batches; how many."""
    pruned = 0
    while True:
        async with database.connection() as connection:
            count = await inbox.prune(connection, age, _BATCH)
        pruned += count
        if count < _BATCH:
            return pruned
