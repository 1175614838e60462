"""Retries of work over a connection after transient errors."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from engine_server.connectors.postgres.connection.errors import (
    DRIVER_ERRORS,
    describe,
    is_connection_error,
    is_transient,
    root_error,
    wants_another_connection,
)
from engine_server.connectors.postgres.connection.pool import Connection, Pool, use
from engine_server.errors import ConnectionFailed, ConnectorError
from pipesync_rpc.backoff import backoff_delay

_log = structlog.get_logger(__name__)

T = TypeVar("T")

# Seconds for which transient errors are retried. A check reports the present state.
CHECK_TIMEOUT = 0.0
# A user waits for a setup or a teardown: a deadlock and a quick restart pass within this time.
CALL_TIMEOUT = 10.0
# A fail-over passes within this time; the time limit of the sync may be shorter.
SYNC_TIMEOUT = 60.0

_FIRST_DELAY = 0.1
_LONGEST_DELAY = 5.0


class RetriesExhausted(ConnectionFailed):
    """A transient error lasted longer than the timeout.

    Attributes:
        error: The last error.
    """

    def __init__(self, message: str, error: Exception) -> None:
        super().__init__(message)
        self.error = error


class Retries:
    """The retries of one piece of work, limited from its first error on.

    Args:
        pool: The pool that provides a connection for each try.
        timeout: Seconds after the first error in which tries may begin.
        table: The quoted name of the only table that the work concerns; empty when there are more.
    """

    def __init__(self, pool: Pool, *, timeout: float, table: str = "") -> None:
        self._pool = pool
        self._timeout = timeout
        self._table = table
        self._count = 0
        self._give_up_at = 0.0

    async def use(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Return the result of ``work``, which must be safe to repeat.

        An error may follow work that was committed, when only the answer was lost.

        Raises:
            RetriesExhausted: A transient error lasted longer than the timeout.
            ConnectionFailed: Postgres was unreachable, or refused the session.
            ConnectorError: Postgres refused the work, for example because its disk is full.
        """
        while True:
            try:
                return await use(self._pool, work)
            except DRIVER_ERRORS as error:
                cause = root_error(error)
                if wants_another_connection(cause):
                    # Also after the last try: the next piece of work needs a new connection, too.
                    await self._pool.expire_connections()
                await self._back_off(cause)

    async def _back_off(self, error: Exception) -> None:
        if not (is_transient(error) and self._timeout):
            if is_connection_error(error):
                raise ConnectionFailed(f"Postgres cannot be reached: {describe(error)}") from error
            subject = f" table {self._table}" if self._table else ""
            raise ConnectorError(f"Postgres refused{subject}: {describe(error)}") from error
        now = time.monotonic()
        if self._count == 0:
            self._give_up_at = now + self._timeout
        delay = backoff_delay(
            self._count + 1, first=_FIRST_DELAY, longest=_LONGEST_DELAY, jitter=0.5
        )
        if now + delay > self._give_up_at:
            raise RetriesExhausted(
                f"Postgres could not be used for {self._timeout:.0f} s: {describe(error)}", error
            ) from error
        self._count += 1
        _log.warning(
            "transaction_retried",
            attempt=self._count,
            delay_s=round(delay, 3),
            error=describe(error),
        )
        await asyncio.sleep(delay)
