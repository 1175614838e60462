"""Acknowledged records survive a crash of Postgres under any setting of the role."""

import asyncio
import tempfile
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from pathlib import Path

import asyncpg
import pytest

from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.connection.catalog_transaction import run_in_transaction
from engine_server.connectors.postgres.connection.pool import Connection
from engine_server.connectors.postgres.connection.pools import Pools
from engine_server.connectors.postgres.connection.transaction import transaction
from engine_server.connectors.postgres.destination import PostgresDestination
from pipesync.v1.message_pb2 import Message
from tests.engine_server.connectors.postgres.builders import customer, logs, records, stream
from tests.messages import checkpoint
from tests.postgres import PostgresCluster

# The setting of the role or the database, and the effective one.
SETTINGS = [
    ("off", "local"),
    ("local", "local"),
    ("remote_write", "remote_write"),
    ("on", "on"),
    ("remote_apply", "remote_apply"),
]
SHOW = "SELECT current_setting('synchronous_commit') AS setting"


@pytest.fixture
async def role(database: asyncpg.Connection) -> str:
    name: str = await database.fetchval("SELECT current_database()")
    return name


@pytest.mark.parametrize(("setting", "effective"), SETTINGS)
async def test_transactions_are_durable_at_least_on_this_server(
    config: PostgresConfig, database: asyncpg.Connection, setting: str, effective: str
) -> None:
    name = await database.fetchval("SELECT current_database()")
    await database.execute(f'ALTER DATABASE "{name}" SET synchronous_commit = {setting}')

    async def look(connection: Connection) -> str:
        found: str = await connection.fetchval(SHOW)
        return found

    async with Pools().open(config) as pool:
        async with pool.acquire() as connection:
            async with transaction(connection, 5.0) as begun:
                [row] = await begun.fetch(SHOW)
                assert row["setting"] == effective
            # A pooler may give the session to others, so the setting must be restored.
            assert await look(connection) == setting
        assert await run_in_transaction(pool, config, look, retry_timeout=0.0) == effective


@pytest.mark.parametrize(("setting", "effective"), SETTINGS)
async def test_rows_are_written_in_a_durable_transaction(
    config: PostgresConfig, database: asyncpg.Connection, setting: str, effective: str
) -> None:
    name = await database.fetchval("SELECT current_database()")
    await database.execute(f'ALTER DATABASE "{name}" SET synchronous_commit = {setting}')
    await logs(PostgresDestination().setup(config, [stream()]))
    await database.execute(
        """
        CREATE TABLE public.settings AS SELECT '' AS setting LIMIT 0;
        CREATE FUNCTION public.note() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            INSERT INTO public.settings VALUES (current_setting('synchronous_commit'));
            RETURN NULL;
        END $$;
        CREATE CONSTRAINT TRIGGER notes AFTER INSERT ON stripe.customers
            DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.note()
        """
    )
    messages = PostgresDestination().write(
        config, [stream()], _source([records("customers", customer(1)), checkpoint("customers")])
    )
    async with aclosing(messages):
        assert checkpoint("customers") in [message async for message in messages]
    assert [row[0] for row in await database.fetch("TABLE public.settings")] == [effective]


async def _source(messages: list[Message]) -> AsyncGenerator[Message, None]:
    for message in messages:
        yield message


@pytest.fixture
def cluster() -> Iterator[PostgresCluster]:
    """A dedicated server that honours synchronous commits."""
    with tempfile.TemporaryDirectory(prefix="pipesync-tests-", ignore_cleanup_errors=True) as home:
        cluster = PostgresCluster(Path(home) / "postgres")
        yield cluster
        cluster.stop()


async def test_acknowledged_records_survive_kill_9_of_a_server_with_asynchronous_commit(
    cluster: PostgresCluster,
) -> None:
    admin = await asyncpg.connect(cluster.url("postgres"))
    await admin.execute("CREATE ROLE writer LOGIN; GRANT CREATE ON DATABASE postgres TO writer")
    await admin.execute("ALTER ROLE writer SET synchronous_commit = off")
    # Only commits write to the disk.
    await admin.execute("ALTER SYSTEM SET wal_writer_delay = '10s'")
    await admin.execute("SELECT pg_reload_conf()")
    await admin.close()
    url = cluster.url("postgres").replace("postgres@", "writer@")
    config = PostgresConfig.model_validate({"url": url, "batch_size": 1})
    acknowledged: list[str] = []

    async def source() -> AsyncGenerator[Message, None]:
        for number in range(20):
            yield records("customers", customer(number))
            yield checkpoint("customers", f"cus_{number}")

    async with aclosing(PostgresDestination().write(config, [stream()], source())) as messages:
        async for message in messages:
            if message.HasField("source_state"):
                acknowledged.append(message.source_state.data)
            if len(acknowledged) == 20:
                break
        await asyncio.to_thread(cluster.kill)
    await asyncio.to_thread(cluster.start_again)
    database = await asyncpg.connect(cluster.url("postgres"))
    stored = {row["id"] for row in await database.fetch("SELECT id FROM stripe.customers")}
    await database.close()
    assert stored == set(acknowledged)
