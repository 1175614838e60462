"""Cancelled work on a connection stays cancelled, even if the connection is back in the pool."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import asyncpg
import pytest

from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.connection import pool
from engine_server.connectors.postgres.connection.pool import Connection, Pool
from engine_server.connectors.postgres.connection.pools import Pools
from tests.engine_server.connectors.postgres.sessions import until


class LingeringPool:
    """A pool whose user notices only later that the connection is back."""

    def __init__(self, opened: Pool) -> None:
        self._opened = opened

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Connection]:
        try:
            async with self._opened.acquire() as connection:
                yield connection
        finally:
            await asyncio.sleep(0.5)


async def test_a_transaction_that_could_not_be_ended_ends_with_its_connection(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    sessions: list[int] = []

    async def work(connection: Connection) -> None:
        sessions.append(await connection.fetchval("SELECT pg_backend_pid()"))
        if len(sessions) == 1:
            await connection.execute("BEGIN; CREATE TABLE public.half_done ()")
            raise asyncio.CancelledError

    async with Pools().open(config) as opened:
        with pytest.raises(asyncio.CancelledError):
            await pool.use(opened, work)
        await pool.use(opened, work)
    first, second = sessions
    assert first != second
    await until(
        database, "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = ANY($1::int[])", sessions
    )
    assert await database.fetchval("SELECT to_regclass('public.half_done') IS NULL")
    assert complaints == []


async def test_work_is_cancelled_although_its_connection_is_back_in_the_pool(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "_CANCEL_TIMEOUT", 0.3)
    begun = asyncio.Event()

    async def work(_: Connection) -> None:
        begun.set()
        await asyncio.Event().wait()

    async with asyncpg.create_pool(database_url, min_size=0, max_size=1) as opened:
        using = asyncio.create_task(pool.use(cast("Pool", LingeringPool(opened)), work))
        await begun.wait()
        using.cancel()
        with pytest.raises(asyncio.CancelledError):
            await using
