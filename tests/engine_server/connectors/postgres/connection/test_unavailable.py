"""Behaviour when Postgres becomes unavailable or cannot continue."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import asyncpg
import pytest
import structlog

from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.connection import retry
from engine_server.connectors.postgres.destination import PostgresDestination
from engine_server.errors import ConnectionFailed, ConnectorError
from pipesync.v1.message_pb2 import Message
from tests.engine_server.connectors.postgres.builders import customer, logs, records, stream, write
from tests.engine_server.connectors.postgres.proxy import Proxy
from tests.engine_server.connectors.postgres.schemas import row_count
from tests.engine_server.connectors.postgres.sessions import cut_others
from tests.messages import checkpoint
from tests.postgres import PostgresCluster


async def test_lost_connections_are_made_again_and_nothing_is_lost(
    database_url: str, database: asyncpg.Connection
) -> None:
    config = PostgresConfig.model_validate({"url": database_url, "batch_size": 5})

    async def source() -> AsyncGenerator[Message, None]:
        for number in range(40):
            if number % 10 == 7:
                await cut_others(database)
            yield records("customers", customer(number))
            yield checkpoint("customers", str(number))

    with structlog.testing.capture_logs() as captured:
        written = await write(config, [stream()], source())
    assert written[-1] == checkpoint("customers", "39")
    assert await row_count(database, "customers") == 40
    assert [entry for entry in captured if entry["event"] == "transaction_retried"]


async def _fail_first_insert(database: asyncpg.Connection, sqlstate: str) -> None:
    """Make the first insert into customers fail; a sequence remembers it beyond the rollback."""
    await database.execute(
        f"""
        CREATE SEQUENCE public.attempts;
        CREATE FUNCTION public.fail_once() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF nextval('public.attempts') = 1 THEN
                RAISE EXCEPTION 'made up' USING ERRCODE = '{sqlstate}';
            END IF;
            RETURN NULL;
        END $$;
        CREATE TRIGGER fail_once BEFORE INSERT ON stripe.customers
            FOR EACH STATEMENT EXECUTE FUNCTION public.fail_once()
        """
    )


@pytest.mark.parametrize(
    "sqlstate",
    ["40P01", "40001", "53300", "55P03", "25006", "57P01"],
    ids=["deadlock", "serialization", "connections", "lock", "read-only", "shutdown"],
)
async def test_a_transient_error_is_retried(
    config: PostgresConfig, database: asyncpg.Connection, sqlstate: str
) -> None:
    streams = [stream("customers"), stream("products")]
    await logs(PostgresDestination().setup(config, streams))
    await _fail_first_insert(database, sqlstate)
    messages = [
        records("products", customer(1)),
        records("customers", customer(1)),
        checkpoint("customers"),
    ]
    with structlog.testing.capture_logs() as captured:
        assert await write(config, streams, messages) == messages
    [retried] = [entry for entry in captured if entry["event"] == "transaction_retried"]
    assert sqlstate in retried["error"]
    assert await row_count(database, "customers") == await row_count(database, "products") == 1


async def test_a_full_disk_stops_the_write_with_its_reason(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    await logs(PostgresDestination().setup(config, [stream()]))
    await _fail_first_insert(database, "53100")
    with pytest.raises(ConnectorError, match=r"refused: made up .*53100"):
        await write(config, [stream()], [records("customers", customer(1))])


async def test_a_restart_of_postgres_in_the_middle_loses_nothing(
    postgres_cluster: PostgresCluster, database_url: str
) -> None:
    config = PostgresConfig.model_validate({"url": database_url, "batch_size": 10})

    async def source() -> AsyncGenerator[Message, None]:
        for number in range(100):
            if number == 50:
                await asyncio.to_thread(postgres_cluster.restart)
            yield records("customers", customer(number))
            yield checkpoint("customers", str(number))

    written = await write(config, [stream()], source())
    assert written[-1] == checkpoint("customers", "99")
    database = await asyncpg.connect(database_url)
    assert await row_count(database, "customers") == 100
    await database.close()


async def test_a_postgres_that_stays_unavailable_fails_the_connection(
    database_url: str, monkeypatch: pytest.MonkeyPatch, tables_made: asyncio.Event
) -> None:
    monkeypatch.setattr(retry, "SYNC_TIMEOUT", 0.5)
    yielded: list[Message] = []
    async with Proxy(database_url) as proxy:

        async def source() -> AsyncGenerator[Message, None]:
            yield checkpoint("customers", "first")
            await tables_made.wait()
            await proxy.close()
            yield records("customers", customer(1))
            yield checkpoint("customers", "second")

        config = PostgresConfig.model_validate({"url": proxy.url})
        outgoing = PostgresDestination().write(config, [stream()], source())
        async with aclosing(outgoing):
            while checkpoint("customers", "first") not in yielded:
                yielded.append(await anext(outgoing))
            with pytest.raises(ConnectionFailed, match="could not be used for"):
                await anext(outgoing)
