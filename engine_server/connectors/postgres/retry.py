"""Work over a connection, tried again for as long as its fault may pass."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from engine_server.connectors.postgres.faults import (
    DRIVER_ERRORS,
    describe,
    first_fault,
    is_connection_fault,
    is_passing,
    wants_another_connection,
)
from engine_server.connectors.postgres.pool import Connection, Pool, use
from engine_server.errors import ConnectionFailed, ConnectorError

log = structlog.get_logger()

T = TypeVar("T")

# For how many seconds faults are waited out. A check says how things are now.
CHECK_PATIENCE = 0.0
# Somebody waits for a setup or a teardown: a deadlock and a quick restart pass in this time.
CALL_PATIENCE = 10.0
# So does a fail-over in this; the time limit of the sync may be shorter.
SYNC_PATIENCE = 60.0

_FIRST_DELAY = 0.1
_LONGEST_DELAY = 5.0


class StillFailing(ConnectionFailed):
    """A fault that should pass on its own did not within the patience.

    Attributes:
        fault: The last one.
    """

    def __init__(self, message: str, fault: Exception) -> None:
        super().__init__(message)
        self.fault = fault


class Retries:
    """The tries of one piece of work; its faults are waited out from the first of them on.

    Args:
        pool: Where each try takes a connection.
        patience: Seconds after the first fault beyond which there is no further try.
        table: The quoted name of the one table that the work is about; empty when it is about more.
    """

    def __init__(self, pool: Pool, *, patience: float, table: str = "") -> None:
        self._pool = pool
        self._patience = patience
        self._table = table
        self._count = 0
        self._give_up_at = 0.0

    async def use(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """What ``work`` answers, which must be the same whether it is done once or twice.

        A fault may come after the work was done, when only the answer was lost.

        Raises:
            StillFailing: The fault did not pass within the patience.
            ConnectionFailed: Postgres was out of reach, or does not let us in.
            ConnectorError: Postgres refused the work, e.g. because its disk is full.
        """
        while True:
            try:
                return await use(self._pool, work)
            except DRIVER_ERRORS as error:
                fault = first_fault(error)
                if wants_another_connection(fault):
                    # Also where this is the last try: the next piece of work begins elsewhere.
                    await self._pool.expire_connections()
                await self._wait_out(fault)

    async def _wait_out(self, error: Exception) -> None:
        if not (is_passing(error) and self._patience):
            if is_connection_fault(error):
                raise ConnectionFailed(f"Postgres cannot be reached: {describe(error)}") from error
            subject = f" table {self._table}" if self._table else ""
            raise ConnectorError(f"Postgres refused{subject}: {describe(error)}") from error
        now = time.monotonic()
        if self._count == 0:
            self._give_up_at = now + self._patience
        longest = min(_FIRST_DELAY * 2**self._count, _LONGEST_DELAY)
        # Half of it at random, so that those cut off together do not come back together.
        delay = longest * random.uniform(0.5, 1)  # noqa: S311 - spreads load, guards nothing
        if now + delay > self._give_up_at:
            raise StillFailing(
                f"Postgres could not be used for {self._patience:.0f} s: {describe(error)}", error
            ) from error
        self._count += 1
        log.warning(
            "transaction_retried",
            attempt=self._count,
            delay_s=round(delay, 3),
            error=describe(error),
        )
        await asyncio.sleep(delay)
