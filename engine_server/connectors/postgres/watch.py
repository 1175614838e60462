"""Tells a server that is long at work from a connection over which nothing comes any more."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import asyncpg

from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.connect import connect
from engine_server.connectors.postgres.faults import DRIVER_ERRORS
from engine_server.connectors.postgres.pool import Connection
from engine_server.errors import ConnectorError

# Seconds between two looks, and how long one may take. Short work is never looked at.
_INTERVAL = 10.0
_LOOK_TIMEOUT = 10.0
# The first may meet a session whose answer is on its way.
_LOOKS = 2

# https://www.postgresql.org/docs/current/monitoring-stats.html#WAIT-EVENT-TABLE
# While we wait for it, only one whose words got lost waits for us.
_IS_AT_WORK = """
    SELECT wait_event_type IS DISTINCT FROM 'Client'
    FROM pg_catalog.pg_stat_activity
    WHERE pid = $1
"""


@dataclass(slots=True)
class Watched:
    """A session that is watched.

    Attributes:
        pid: The server's process; None until it is known, which must not take long.
    """

    pid: int | None = None


@asynccontextmanager
async def watched(connection: Connection, config: PostgresConfig) -> AsyncIterator[Watched]:
    """Drops ``connection`` when the block waits for it in vain.

    Whether the server is still at work is asked over a connection of its own, so it is noticed
    whatever is silent between us: the network, a proxy, a pooler, or a server that froze.

    Raises:
        TimeoutError: The connection was dropped.
    """
    session = Watched()
    watching = asyncio.create_task(_drop_when_lost(connection, session, config))
    try:
        yield session
    except DRIVER_ERRORS:
        if watching.done():
            watching.result()
            raise TimeoutError("nothing came from it any more") from None
        raise
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def _drop_when_lost(connection: Connection, session: Watched, config: PostgresConfig) -> None:
    in_vain = 0
    while in_vain < _LOOKS:
        await _pause()
        in_vain = 0 if await _is_at_work(session.pid, config) else in_vain + 1
    connection.terminate()


async def _pause() -> None:
    await asyncio.sleep(_INTERVAL)


async def _is_at_work(pid: int | None, config: PostgresConfig) -> bool:
    if pid is None:
        return False
    try:
        # Before the one that can be used, each of the others may have to be waited for.
        async with asyncio.timeout(_LOOK_TIMEOUT * max(1, len(config.hosts))):
            other = await connect(config)
        asking = asyncio.create_task(_ask(other, pid))
        try:
            await asyncio.wait([asking], timeout=_LOOK_TIMEOUT)
            return asking.done() and asking.result()
        finally:
            # Were it cancelled instead, it would wait for the end of its transaction.
            other.terminate()
            await asyncio.gather(asking, return_exceptions=True)
    except asyncpg.PostgresError:
        # It speaks, though not with another one of us: there are too many connections, say.
        return True
    except (*DRIVER_ERRORS, ConnectorError):
        return False


async def _ask(other: asyncpg.Connection, pid: int) -> bool:
    # A pooler may give each transaction another session.
    async with other.transaction():
        return bool(await other.fetchval(_IS_AT_WORK, pid))
