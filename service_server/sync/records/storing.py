"""Writes of a sync's results, retried while the database is unavailable."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import structlog

from pipesync_rpc.errors import RpcError
from service_server.background.loop import Backoff
from service_server.errors import StoreUnavailable
from service_server.store.database import Connection

_log = structlog.get_logger(__name__)

# Writes rows in a transaction that requires the lease.
Writes: TypeAlias = Callable[[Connection], Awaitable[None]]

# Attempts against an error that may be permanent. The delays between them add up to half a minute.
_MOST_ATTEMPTS = 15


async def store_with_retry(store: Callable[[], Awaitable[None]]) -> None:
    """Call ``store`` until it succeeds, with retries while the database is unavailable.

    Other errors are retried a limited number of times.

    Raises:
        RpcError: The error is not StoreUnavailable, so a retry would not help.
        Exception: The error of the last attempt.
    """
    backoff, attempts_left = Backoff(first=0.5), _MOST_ATTEMPTS
    while True:
        attempts_left -= 1
        try:
            return await store()
        except StoreUnavailable as error:
            _log.warning("state_not_stored_yet", error=str(error))
        except RpcError:
            raise
        except Exception:
            if attempts_left <= 0:
                raise
            _log.warning("state_not_stored_yet", exc_info=True)
        await asyncio.sleep(backoff.next_delay())
