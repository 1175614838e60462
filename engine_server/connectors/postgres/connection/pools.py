"""Connection pools of a destination, shared by the pipelines that write to the same database."""

import asyncio
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import asyncpg

from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.connection.connect import connect
from engine_server.connectors.postgres.connection.errors import DRIVER_ERRORS, nonsense_reported
from engine_server.connectors.postgres.connection.pool import Pool
from pipesync_postgres.hosts import LastHost

# Of all pipelines of a destination to one database; the default of max_connections is 100.
MAX_CONNECTIONS = 20
# Seconds after which an idle connection is closed.
_IDLE_TIMEOUT = 10.0
_CLOSE_TIMEOUT = 0.3


@dataclass(slots=True, kw_only=True)
class _SharedPool:
    """A pool, the number of blocks that use it, and the task that closes it once there are none."""

    pool: Pool
    users: int = 0
    closing: asyncio.Task[None] | None = None


class Pools:
    """One pool for each database that is in use.

    A pipeline that waits for its source holds no connection, and one that has rows to write waits
    for its turn: any number of pipelines stays within ``MAX_CONNECTIONS``.
    """

    def __init__(self) -> None:
        self._pools: dict[Hashable, _SharedPool] = {}
        self._keep_alive_count = 0

    @asynccontextmanager
    async def open(self, config: PostgresConfig) -> AsyncIterator[Pool]:
        """Yield the pool of a database.

        It is closed after its last use; within ``keep_alive``, once it is idle for too long.
        """
        address = _address(config)
        if address not in self._pools:
            # Creating an empty pool awaits nothing, so no other task runs before it is registered.
            self._pools[address] = _SharedPool(pool=await _create_pool(config))
        shared = self._pools[address]
        shared.users += 1
        if shared.closing is not None:
            shared.closing.cancel()
            shared.closing = None
        try:
            yield shared.pool
        finally:
            shared.users -= 1
            if not shared.users and self._keep_alive_count:
                shared.closing = asyncio.create_task(self._close_when_idle(address))
            elif not shared.users:
                await _close(self._pools.pop(address).pool)

    @asynccontextmanager
    async def keep_alive(self) -> AsyncIterator[None]:
        """Keep unused pools open during the block until their connections are idle for too long.

        Connecting takes longer than writing a few rows.
        """
        self._keep_alive_count += 1
        try:
            yield
        finally:
            self._keep_alive_count -= 1
            if not self._keep_alive_count:
                await asyncio.gather(*map(self._close_unused, [*self._pools]))

    async def _close_when_idle(self, address: Hashable) -> None:
        await asyncio.sleep(_IDLE_TIMEOUT)
        await _close(self._pools.pop(address).pool)

    async def _close_unused(self, address: Hashable) -> None:
        if (closing := self._pools[address].closing) is not None:
            closing.cancel()
            await _close(self._pools.pop(address).pool)


async def _close(pool: Pool) -> None:
    try:
        with nonsense_reported():
            async with asyncio.timeout(_CLOSE_TIMEOUT):
                await pool.close()
    except DRIVER_ERRORS:
        pool.terminate()


def _address(config: PostgresConfig) -> Hashable:
    """Return the settings that two pipelines must have in common to share connections."""
    return (
        config.url,
        config.host,
        config.port,
        config.database,
        config.user,
        config.password,
        config.password_file,
        config.ssl_mode,
        config.ssl_ca_pem,
        config.application_name,
        # The addresses were checked for this reach only.
        config.reach,
    )


async def _create_pool(config: PostgresConfig) -> Pool:
    return await asyncpg.create_pool(
        connect=partial(connect, config, last_host=LastHost()),
        min_size=0,
        max_size=MAX_CONNECTIONS,
        max_inactive_connection_lifetime=_IDLE_TIMEOUT,
        reset=_leave_as_it_is,
    )


async def _leave_as_it_is(connection: asyncpg.Connection) -> None:
    """Reset nothing: sessions hold no state."""
