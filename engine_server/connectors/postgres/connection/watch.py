"""Detection of lost connections, as opposed to long statements."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import asyncpg

from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.connection.connect import connect
from engine_server.connectors.postgres.connection.errors import DRIVER_ERRORS, nonsense_reported
from engine_server.connectors.postgres.connection.pool import Connection
from engine_server.errors import ConnectorError

# Seconds between two probes, and seconds that a probe may take. Short work is never probed.
_INTERVAL = 10.0
_PROBE_TIMEOUT = 10.0
# Failed probes in a row. At the first, the answer of the session may be on its way.
_MOST_FAILED = 2

# https://www.postgresql.org/docs/current/monitoring-stats.html#WAIT-EVENT-TABLE
# A session that waits for the client, while the client waits for it, has lost its answer.
_IS_AT_WORK = """
    SELECT wait_event_type IS DISTINCT FROM 'Client'
    FROM pg_catalog.pg_stat_activity
    WHERE pid = $1
"""


@dataclass(slots=True)
class WatchedSession:
    """A session under watch.

    Attributes:
        pid: The process id of the server; None until it is known, which must not take long.
    """

    pid: int | None = None


@asynccontextmanager
async def watched(connection: Connection, config: PostgresConfig) -> AsyncIterator[WatchedSession]:
    """Terminate ``connection`` once the server no longer works for the block.

    A second connection asks whether the server still works. So any silent party is noticed: the
    network, a proxy, a pooler, or a server that froze.

    Raises:
        TimeoutError: The connection was terminated.
    """
    session = WatchedSession()
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


async def _drop_when_lost(
    connection: Connection, session: WatchedSession, config: PostgresConfig
) -> None:
    failed = 0
    while failed < _MOST_FAILED:
        await _pause()
        failed = 0 if await _is_at_work(session.pid, config) else failed + 1
    connection.terminate()


async def _pause() -> None:
    await asyncio.sleep(_INTERVAL)


async def _is_at_work(pid: int | None, config: PostgresConfig) -> bool:
    if pid is None:
        return False
    try:
        with nonsense_reported():
            return await _probe(pid, config)
    except asyncpg.PostgresError:
        # The server answers, though it refuses one more session, e.g. for too many connections.
        return True
    except (*DRIVER_ERRORS, ConnectorError):
        return False


async def _probe(pid: int, config: PostgresConfig) -> bool:
    # Each host before the one that can be used may take its whole timeout.
    async with asyncio.timeout(_PROBE_TIMEOUT * max(1, len(config.hosts))):
        other = await connect(config)
    query = asyncio.create_task(_query(other, pid))
    try:
        await asyncio.wait([query], timeout=_PROBE_TIMEOUT)
        return query.done() and query.result()
    finally:
        # A cancelled query would wait for the end of its transaction.
        other.terminate()
        await asyncio.gather(query, return_exceptions=True)


async def _query(other: asyncpg.Connection, pid: int) -> bool:
    # A pooler may give each transaction another session.
    async with other.transaction():
        return bool(await other.fetchval(_IS_AT_WORK, pid))
