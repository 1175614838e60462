"""Time limits of calls while the network drops all packets."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from service_server.errors import StoreUnavailable
from service_server.store import database as database_module
from service_server.store.database import Database
from tests.engine_server.connectors.postgres.proxy import Proxy

# Seconds: far more than the sum of these tests' limits, and far less than those of the service.
TIMEOUT = 8.0


def test_the_limits_of_a_call_add_up_to_less_than_ten_seconds() -> None:
    assert database_module._CONNECT_TIMEOUT + database_module._STATEMENT_TIMEOUT < 10


@pytest.fixture
async def proxy(database_url: str) -> AsyncIterator[Proxy]:
    async with Proxy(database_url) as proxy:
        yield proxy


@pytest.fixture
async def silent(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Database]:
    """Return a database behind the proxy, with short limits and three used connections."""
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
async def test_a_call_over_a_silent_connection_ends(
    proxy: Proxy, silent: Database, call: Callable[[Database], Awaitable[None]]
) -> None:
    proxy.stall()
    async with asyncio.timeout(TIMEOUT):
        with pytest.raises(StoreUnavailable):
            await call(silent)
        # A call that has to connect ends as well.
        with pytest.raises(StoreUnavailable):
            await call(silent)
    proxy.flow()
    await call(silent)


@pytest.mark.parametrize("at", ["statement", "commit", "error"])
async def test_a_transaction_whose_connection_becomes_silent_ends(
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

    async with asyncio.timeout(TIMEOUT):
        with pytest.raises(LookupError if at == "error" else StoreUnavailable):
            await change()


async def test_calls_that_wait_for_a_connection_end(proxy: Proxy, silent: Database) -> None:
    proxy.stall()
    async with asyncio.timeout(TIMEOUT):
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
    # The call waits for an answer by then.
    while not proxy.held:  # noqa: ASYNC110 - the proxy has no event for it
        await asyncio.sleep(0.01)
    asking.cancel()
    async with asyncio.timeout(TIMEOUT):
        with pytest.raises(asyncio.CancelledError):
            await asking
    proxy.flow()
    await call(silent)


async def test_a_pool_closes_without_an_answer(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "_END_TIMEOUT", 0.2)
    async with asyncio.timeout(TIMEOUT):
        async with Database.open(proxy.url) as database:
            await _ask(database)
            proxy.stall()


async def test_a_database_that_is_silent_from_the_start_is_unavailable(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "_CONNECT_TIMEOUT", 0.2)
    proxy.stall()
    async with asyncio.timeout(TIMEOUT):
        with pytest.raises(StoreUnavailable):
            async with Database.open(proxy.url):
                pass
