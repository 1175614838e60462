"""A network that swallows everything keeps no call waiting for longer than it may."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from service_server.errors import StoreUnavailable
from service_server.store import database as database_module
from service_server.store.database import Database
from tests.engine_server.connectors.postgres.proxy import Proxy

# Seconds: far beyond what the limits of these tests add up to, far below those of the service.
PATIENCE = 8.0


def test_the_limits_of_a_call_add_up_to_less_than_ten_seconds() -> None:
    assert database_module._CONNECT_TIMEOUT + database_module._STATEMENT_TIMEOUT < 10


@pytest.fixture
async def proxy(database_url: str) -> AsyncIterator[Proxy]:
    async with Proxy(database_url) as proxy:
        yield proxy


@pytest.fixture
async def silent(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Database]:
    """Through the proxy, with short limits and three connections that were used."""
    monkeypatch.setattr(database_module, "_CONNECT_TIMEOUT", 1.0)
    monkeypatch.setattr(database_module, "_STATEMENT_TIMEOUT", 1.0)
    monkeypatch.setattr(database_module, "_END_TIMEOUT", 0.2)
    async with Database.open(proxy.url, max_connections=3) as database:
        async with database.connection(), database.connection(), database.connection():
            pass
        yield database
        proxy.flow()


async def _ask(database: Database) -> None:
    async with database.connection() as connection:
        await connection.fetchval("SELECT 1")


async def _change(database: Database) -> None:
    async with database.transaction() as connection:
        await connection.execute("CREATE TEMPORARY TABLE changed ()")


@pytest.mark.parametrize("call", [_ask, _change])
async def test_a_call_over_a_connection_that_is_silent_ends(
    proxy: Proxy, silent: Database, call: Callable[[Database], Awaitable[None]]
) -> None:
    proxy.stall()
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(StoreUnavailable):
            await call(silent)
        # Nor does one that has to connect.
        with pytest.raises(StoreUnavailable):
            await call(silent)
    proxy.flow()
    await call(silent)


@pytest.mark.parametrize("at", ["statement", "commit", "error"])
async def test_a_transaction_that_falls_silent_on_its_way_ends(
    proxy: Proxy, silent: Database, at: str
) -> None:
    async def change() -> None:
        async with silent.transaction() as connection:
            await connection.execute("CREATE TEMPORARY TABLE changed ()")
            proxy.stall()
            if at == "error":
                raise LookupError
            if at == "statement":
                await connection.execute("DROP TABLE changed")

    async with asyncio.timeout(PATIENCE):
        with pytest.raises(LookupError if at == "error" else StoreUnavailable):
            await change()


async def test_more_calls_than_connections_end_all_the_same(proxy: Proxy, silent: Database) -> None:
    proxy.stall()
    async with asyncio.timeout(PATIENCE):
        calls = (call(silent) for call in [_ask, _change] * 10)
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {StoreUnavailable}
    proxy.flow()
    await _change(silent)


@pytest.mark.parametrize("call", [_ask, _change])
async def test_a_call_that_is_cancelled_ends_soon(
    proxy: Proxy,
    silent: Database,
    call: Callable[[Database], Awaitable[None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    proxy.stall()
    asking = asyncio.ensure_future(call(silent))
    # It waits for an answer by then.
    while not proxy.held:  # noqa: ASYNC110 - the proxy has no event for it
        await asyncio.sleep(0.01)
    asking.cancel()
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(asyncio.CancelledError):
            await asking
    proxy.flow()
    await call(silent)


async def test_the_pool_is_closed_without_an_answer(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "_END_TIMEOUT", 0.2)
    async with asyncio.timeout(PATIENCE):
        async with Database.open(proxy.url) as database:
            await _ask(database)
            proxy.stall()


async def test_one_that_is_silent_from_the_start_is_unavailable(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "_CONNECT_TIMEOUT", 0.2)
    proxy.stall()
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(StoreUnavailable):
            async with Database.open(proxy.url):
                pass
