"""Work on a connection that is cancelled stays so, wherever the connection is by then."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import asyncpg
import pytest

from engine_server.connectors.postgres import pool
from engine_server.connectors.postgres.pool import Connection, Pool


class LingeringPool:
    """A pool whose user takes a while to notice that the connection is back."""

    def __init__(self, opened: Pool) -> None:
        self._opened = opened

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Connection]:
        try:
            async with self._opened.acquire() as connection:
                yield connection
        finally:
            await asyncio.sleep(0.5)


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
