"""Transient errors while tables are looked up, created and dropped: each call has its timeout."""

from collections.abc import AsyncIterator

import asyncpg
import pytest
import structlog

from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.connection import retry
from engine_server.connectors.postgres.destination import PostgresDestination
from engine_server.errors import ConnectionFailed, ConnectorError
from tests.engine_server.connectors.postgres.builders import customer, records, stream, write
from tests.engine_server.connectors.postgres.proxy import Proxy
from tests.engine_server.connectors.postgres.schemas import set_up, tables_of, tear_down
from tests.messages import checkpoint

PAGE = [records("customers", customer(1)), checkpoint("customers")]


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "_FIRST_DELAY", 0.002)


@pytest.fixture
async def proxy(database_url: str) -> AsyncIterator[Proxy]:
    async with Proxy(database_url) as proxy:
        yield proxy


async def _fail_first_command(database: asyncpg.Connection, sqlstate: str, times: int = 1) -> None:
    """Make the first CREATE or DROP commands fail, counted beyond the rollback."""
    await database.execute(
        f"""
        CREATE SEQUENCE public.attempts;
        CREATE FUNCTION public.fail() RETURNS event_trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF nextval('public.attempts') <= {times} THEN
                RAISE EXCEPTION 'made up' USING ERRCODE = '{sqlstate}';
            END IF;
        END $$;
        CREATE EVENT TRIGGER fail ON ddl_command_start EXECUTE FUNCTION public.fail()
        """
    )


@pytest.mark.parametrize(
    "sqlstate",
    ["40P01", "53300", "25006", "57P01"],
    ids=["deadlock", "connections", "read-only", "shutdown"],
)
async def test_a_transient_error_before_the_first_record_is_retried(
    config: PostgresConfig, database: asyncpg.Connection, sqlstate: str
) -> None:
    await _fail_first_command(database, sqlstate, times=2)
    with structlog.testing.capture_logs() as captured:
        assert await write(config, [stream()], PAGE) == PAGE
    retried = [entry for entry in captured if entry["event"] == "transaction_retried"]
    assert [entry["attempt"] for entry in retried] == [1, 2]
    assert sqlstate in retried[0]["error"]
    assert await database.fetchval("SELECT count(*) FROM stripe.customers") == 1


# Bytes on the wire, whether they are sent to Postgres, and whether they still arrive.
POINTS = {
    "before the transaction": (b"BEGIN", True, False),
    "before the look-up": (b"nspname = $1", True, False),
    "while a table is made": (b"CREATE TABLE", True, True),
    "after the commit, before its answer": (b"COMMIT\0", False, False),
}


@pytest.mark.parametrize(("text", "to_server", "deliver"), POINTS.values(), ids=POINTS.keys())
async def test_a_connection_lost_while_tables_are_made_is_made_again(
    proxy: Proxy, database: asyncpg.Connection, text: bytes, to_server: bool, deliver: bool
) -> None:
    config = PostgresConfig.model_validate({"url": proxy.url})
    proxy.cut_at(text, to_server=to_server, deliver=deliver)
    await set_up(config, stream())
    assert await tables_of(database) == ["customers"]
    proxy.cut_at(text, to_server=to_server, deliver=deliver)
    assert await write(config, [stream(), stream("products")], PAGE) == PAGE
    assert await tables_of(database) == ["customers", "products"]
    proxy.cut_at(b"DROP TABLE" if deliver else text, to_server=to_server, deliver=deliver)
    await tear_down(config, stream(), stream("products"))
    assert await tables_of(database) == []


async def test_setup_and_teardown_give_up_sooner_than_a_sync(
    config: PostgresConfig, database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "CALL_TIMEOUT", 0.05)
    await _fail_first_command(database, "40P01", times=10_000)
    for act in (set_up, tear_down):
        if act is tear_down:
            await database.execute("ALTER EVENT TRIGGER fail DISABLE")
            await set_up(config, stream())
            await database.execute("ALTER EVENT TRIGGER fail ENABLE")
        with pytest.raises(ConnectionFailed, match=r"could not be used for .*made up .*40P01"):
            await act(config, stream())
    assert await tables_of(database) == ["customers"]


async def test_a_permanent_error_is_reported_at_once(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    await _fail_first_command(database, "42501")
    with pytest.raises(ConnectorError, match=r"Postgres refused: made up .*42501"):
        await write(config, [stream()], PAGE)
    assert await write(config, [stream()], PAGE) == PAGE


async def test_a_check_does_not_retry(proxy: Proxy) -> None:
    await proxy.close()
    config = PostgresConfig.model_validate({"url": proxy.url})
    with structlog.testing.capture_logs() as captured:
        [message] = [message async for message in PostgresDestination().check(config, [stream()])]
    assert "cannot be reached" in message.connection_status.message
    assert captured == []
