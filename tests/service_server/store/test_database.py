"""Connections of the pool, used one after another."""

import asyncio
from typing import Any

import asyncpg
import pytest

from pipesync_postgres.hosts import Connection
from service_server.errors import StoreUnavailable
from service_server.store import connecting
from service_server.store import database as database_module
from service_server.store.database import Database


async def test_an_unfinished_transaction_is_rolled_back_before_the_next_use(
    database_url: str,
) -> None:
    async with Database.open(database_url, max_connections=1) as database:
        async with database.connection() as connection:
            # The state after a BEGIN whose caller was cancelled.
            await connection.execute("BEGIN; CREATE TABLE left_over ()")
        async with database.connection() as connection:
            assert not connection.is_in_transaction()
            assert await connection.fetchval("SELECT to_regclass('left_over')") is None


REFUSALS = [
    asyncpg.TooManyConnectionsError("sorry, too many clients already"),
    asyncpg.ProtocolViolationError("no more connections allowed (max_client_conn)"),
    asyncpg.InvalidPasswordError("password authentication failed"),
]


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: type(refusal).__name__)
async def test_open_connections_are_used_while_new_ones_are_refused(
    refusal: asyncpg.PostgresError, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_full, tried, refuse = False, asyncio.Event(), asyncio.Event()

    async def connect(*arguments: Any, **options: Any) -> Connection:
        if not is_full:
            return await connecting.connect(*arguments, **options)
        tried.set()
        await refuse.wait()
        raise refusal

    monkeypatch.setattr(database_module, "connect", connect)

    async def ask() -> int:
        async with database.connection() as connection:
            return int(await connection.fetchval("SELECT 1"))

    async with Database.open(database_url, max_connections=3) as database:
        async with database.connection():
            is_full = True
            second = asyncio.create_task(ask())
            async with asyncio.timeout(10):
                await tried.wait()
        # The first connection has been released before the second is refused.
        refuse.set()
        assert await second == 1
        assert [await ask() for _ in range(5)] == [1] * 5
        async with database.connection():
            with pytest.raises(StoreUnavailable):
                await ask()
        assert await ask() == 1
