"""Work over a connection of a pool."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from engine_server.connectors.postgres.connection.answer_limits import drop_reported
from engine_server.connectors.postgres.connection.errors import DRIVER_ERRORS, nonsense_reported
from engine_server.errors import ConnectorError
from pipesync_postgres.read_only import (
    Ending,
    end_read_only_session,
    end_read_only_sessions,
    is_usable,
)

Pool = asyncpg.Pool
Connection = PoolConnectionProxy
T = TypeVar("T")

# The engine promises that a cancelled call stops within a second.
_CANCEL_TIMEOUT = 0.3


async def use(pool: Pool, work: Callable[[Connection], Awaitable[T]]) -> T:
    """Return the result of ``work`` over one connection; a cancellation soon takes effect.

    A cancelled transaction waits for an answer of the server. When none arrives in time, the
    connection is dropped. After work that met a read-only session, all such sessions of a pooler
    are ended, so that the work succeeds when it is repeated.
    """
    used: Connection | None = None

    async def end_session(age: float) -> Ending:
        nonlocal used
        async with pool.acquire() as used:
            return await end_read_only_session(used, age=age)

    async def do() -> T:
        with nonsense_reported():
            return await acquire_and_work()

    async def acquire_and_work() -> T:
        nonlocal used
        ending = Ending.WRITABLE
        try:
            async with pool.acquire() as used:
                try:
                    with drop_reported(used):
                        return await work(used)
                except asyncpg.ReadOnlySQLTransactionError:
                    ending = await end_read_only_session(used)
                    raise
                finally:
                    # A cancellation may hit the end of the transaction in place of its statement,
                    # which leaves the transaction open. The driver raises this error for a
                    # connection that the work dropped.
                    with suppress(asyncpg.InterfaceError):
                        if not used.is_closed() and used.is_in_transaction():
                            used.terminate()
                        elif not (used.is_closed() or await is_usable(used)):
                            # The server became a standby: its answers may be outdated.
                            await pool.expire_connections()
        except asyncpg.ReadOnlySQLTransactionError:
            if ending is Ending.ENDED:
                # The caller is told of the error of the work.
                with suppress(*DRIVER_ERRORS, ConnectorError):
                    await end_read_only_sessions(end_session)
            raise

    task = asyncio.create_task(do())
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.cancel()
        _, stuck = await asyncio.wait([task], timeout=_CANCEL_TIMEOUT)
        if stuck and used is not None:
            # The connection may be back in the pool by now. The driver's error would take the place
            # of the cancellation, and the work would be retried.
            with suppress(asyncpg.InterfaceError):
                used.terminate()
        await asyncio.gather(task, return_exceptions=True)
        raise
