"""A silent Postgres: waited for while it works, and given up when the connection is lost."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest
import structlog

from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.connection import catalog_transaction, connect, retry, watch
from engine_server.connectors.postgres.destination import PostgresDestination
from engine_server.errors import ConnectionFailed
from tests.engine_server.connectors.postgres.builders import stream
from tests.engine_server.connectors.postgres.proxy import Proxy
from tests.engine_server.connectors.postgres.schemas import set_up, tables_of, tear_down
from tests.engine_server.connectors.postgres.sessions import until_blocked


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog_transaction, "_IDLE_TIMEOUT", 0.1)
    monkeypatch.setattr(watch, "_INTERVAL", 0.05)
    monkeypatch.setattr(watch, "_PROBE_TIMEOUT", 0.5)
    monkeypatch.setattr(connect, "_TIMEOUT", 0.5)


@pytest.fixture
def looking(_hurried: None, monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Give any machine the time to answer, where the server is never lost.

    Returns:
        Set while the server is probed.
    """
    looking = asyncio.Event()

    async def pause() -> None:
        await looking.wait()
        await asyncio.sleep(0.01)

    monkeypatch.setattr(watch, "_pause", pause)
    monkeypatch.setattr(watch, "_PROBE_TIMEOUT", 100)
    monkeypatch.setattr(connect, "_TIMEOUT", 100)
    monkeypatch.setattr(catalog_transaction, "_IDLE_TIMEOUT", 100)
    return looking


@pytest.fixture
async def proxy(database_url: str) -> AsyncIterator[Proxy]:
    async with Proxy(database_url) as proxy:
        yield proxy


@pytest.fixture
async def config(proxy: Proxy) -> PostgresConfig:
    """A configuration that goes through the proxy; the table exists."""
    config = PostgresConfig.model_validate({"url": proxy.url})
    await set_up(config, stream())
    return config


@asynccontextmanager
async def _blocked_teardown(
    config: PostgresConfig, database: asyncpg.Connection
) -> AsyncIterator[asyncio.Task[list[str]]]:
    """Yield a teardown that waits for a lock until the block ends."""
    async with database.transaction():
        await database.execute("LOCK TABLE stripe.customers IN ROW EXCLUSIVE MODE")
        tearing_down = asyncio.create_task(tear_down(config, stream()))
        await until_blocked(database)
        yield tearing_down


async def _until_accepted(proxy: Proxy, count: int) -> None:
    async with asyncio.timeout(100):
        while proxy.accepted < count:  # noqa: ASYNC110 - the proxy has no event for it
            await asyncio.sleep(0.01)


async def test_a_working_server_is_waited_for_without_limit(
    proxy: Proxy, config: PostgresConfig, database: asyncpg.Connection, looking: asyncio.Event
) -> None:
    with structlog.testing.capture_logs() as captured:
        async with _blocked_teardown(config, database) as tearing_down:
            looking.set()
            await _until_accepted(proxy, proxy.accepted + 5)
            # One probe may be running, and a single failed probe ends nothing.
            looking.clear()
        assert len(await tearing_down) == 2
    assert captured == []


async def test_a_connection_whose_answers_get_lost_is_left_for_another(
    proxy: Proxy,
    config: PostgresConfig,
    database: asyncpg.Connection,
    looking: asyncio.Event,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retry, "CALL_TIMEOUT", 100)
    # Until then the lost session keeps its locks.
    monkeypatch.setattr(catalog_transaction, "_IDLE_TIMEOUT", 3)
    with structlog.testing.capture_logs() as captured:
        async with _blocked_teardown(config, database) as tearing_down:
            proxy.strand()
        looking.set()
        async with asyncio.timeout(100):
            while not captured:  # noqa: ASYNC110 - a log line is no event
                await asyncio.sleep(0.01)
        # On a slow machine, the second attempt may seem lost, too.
        looking.clear()
        assert len(await tearing_down) == 2
    assert "nothing came from it any more" in [entry.get("error") for entry in captured]
    assert await tables_of(database) == []


async def test_a_network_that_says_nothing_any_more_ends_setup_and_teardown(
    proxy: Proxy,
    config: PostgresConfig,
    database: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retry, "CALL_TIMEOUT", 0.1)
    async with _blocked_teardown(config, database) as tearing_down:
        proxy.stall()
    with pytest.raises(ConnectionFailed, match="could not be used for"):
        await tearing_down
    with pytest.raises(ConnectionFailed, match="did not answer in time"):
        await set_up(config, stream())


@pytest.mark.parametrize("passed", [0, 300, 900])
async def test_a_check_of_a_server_that_falls_silent_ends(
    proxy: Proxy, config: PostgresConfig, passed: int
) -> None:
    proxy.stall_after(passed)
    [message] = [message async for message in PostgresDestination().check(config, [stream()])]
    assert "Postgres cannot be reached: " in message.connection_status.message


@pytest.mark.usefixtures("looking")
async def test_the_wait_for_a_lock_is_limited(
    config: PostgresConfig, database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "CALL_TIMEOUT", 0.05)
    hasty = config.model_copy(update={"statement_timeout": 0.1})
    async with database.transaction():
        await database.execute("LOCK TABLE stripe.customers IN ROW EXCLUSIVE MODE")
        with pytest.raises(ConnectionFailed, match="due to lock timeout"):
            await tear_down(hasty, stream())


@pytest.mark.usefixtures("looking")
async def test_a_statement_timeout_of_the_database_does_not_cancel_long_work(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    name = await database.fetchval("SELECT current_database()")
    await database.execute(
        f"""
        ALTER DATABASE "{name}" SET statement_timeout = '1h';
        CREATE TABLE public.noted AS SELECT '' AS statement_timeout LIMIT 0;
        CREATE FUNCTION public.note() RETURNS event_trigger LANGUAGE plpgsql AS $$
        BEGIN
            INSERT INTO public.noted VALUES (current_setting('statement_timeout'));
        END $$;
        CREATE EVENT TRIGGER notes ON ddl_command_start WHEN TAG IN ('DROP TABLE')
            EXECUTE FUNCTION public.note()
        """  # noqa: S608 - a name of our own
    )
    assert len(await tear_down(config, stream())) == 2
    noted = await database.fetch("SELECT DISTINCT statement_timeout FROM public.noted")
    assert [row["statement_timeout"] for row in noted] == ["0"]
