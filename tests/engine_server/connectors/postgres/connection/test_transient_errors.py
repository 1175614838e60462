"""Real transient errors of Postgres: retried, with one log line for each try."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import psutil
import pytest
import structlog
from structlog.typing import EventDict

from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.destination import PostgresDestination
from pipesync.v1.message_pb2 import Message
from tests.engine_server.connectors.postgres.builders import customer, logs, records, stream, write
from tests.engine_server.connectors.postgres.sessions import cut_others, until
from tests.messages import checkpoint
from tests.postgres import PostgresCluster

PAGE = [records("customers", customer(1), customer(2)), checkpoint("customers")]
ALONE = "SELECT count(*) = 1 FROM pg_stat_activity WHERE datname = current_database()"
COUNT = "SELECT count(*) FROM stripe.customers"


@pytest.fixture(autouse=True)
async def _tables(config: PostgresConfig) -> None:
    await logs(PostgresDestination().setup(config, [stream()]))


def _retries(captured: list[EventDict], sqlstate: str) -> list[EventDict]:
    return [
        dict(entry)
        for entry in captured
        if entry["event"] == "transaction_retried" and sqlstate in entry["error"]
    ]


@asynccontextmanager
async def _retried(
    config: PostgresConfig, sqlstate: str, messages: AsyncGenerator[Message, None] | None = None
) -> AsyncIterator[None]:
    """Write one page; the block begins after a failed try, and then a try succeeds."""
    with structlog.testing.capture_logs() as captured:
        writing = asyncio.create_task(write(config, [stream()], messages or PAGE))
        async with asyncio.timeout(10):
            while not _retries(captured, sqlstate):  # noqa: ASYNC110 - a log line is no event
                await asyncio.sleep(0.01)
        yield
        assert await writing == PAGE
    first, *_ = _retries(captured, sqlstate)
    assert first["log_level"] == "warning"
    assert first["delay_s"] > 0


async def test_a_server_that_became_read_only_is_left_for_its_successor(
    config: PostgresConfig, database: asyncpg.Connection, tables_made: asyncio.Event
) -> None:
    name = await database.fetchval("SELECT current_database()")

    async def source() -> AsyncGenerator[Message, None]:
        await tables_made.wait()
        # Every new session stays read-only until its end.
        await database.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
        await cut_others(database)
        for message in PAGE:
            yield message

    async with _retried(config, "25006", source()):
        await database.execute(f'ALTER DATABASE "{name}" RESET default_transaction_read_only')
    assert await database.fetchval(COUNT) == 2


async def test_a_server_with_too_many_connections_is_retried(
    database_url: str, database: asyncpg.Connection, tables_made: asyncio.Event
) -> None:
    role = f"lonely_{await database.fetchval('SELECT current_database()')}"[:60]
    await database.execute(
        f"CREATE ROLE {role} LOGIN CONNECTION LIMIT 1; GRANT USAGE ON SCHEMA stripe TO {role}; "
        f"GRANT ALL ON stripe.customers TO {role}"
    )
    url = database_url.replace("postgres@", f"{role}@")
    other: list[asyncpg.Connection] = []

    async def source() -> AsyncGenerator[Message, None]:
        await tables_made.wait()
        await cut_others(database)
        await until(database, ALONE)
        other.append(await asyncpg.connect(url))
        for message in PAGE:
            yield message

    try:
        limited = PostgresConfig.model_validate({"url": url})
        async with _retried(limited, "53300", source()):
            await other[0].close()
    finally:
        await database.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


async def test_a_deadlock_with_others_is_tried_again(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    await write(config, [stream()], PAGE)
    newer = [records("customers", *[customer(number, at=2, name="new") for number in (1, 2)])]
    # The session whose deadlock timeout ends first is cancelled: not this one.
    await database.execute("SET deadlock_timeout = '1min'")
    with structlog.testing.capture_logs() as captured:
        async with database.transaction():
            await database.execute(
                "UPDATE stripe.customers SET _raw_data = '{}' WHERE id = 'cus_2'"
            )
            writing = asyncio.create_task(write(config, [stream()], newer))
            # A session that waits for a row waits for its transaction.
            await until(
                database,
                "SELECT count(*) > 0 FROM pg_locks "
                "WHERE NOT granted AND locktype = 'transactionid'",
            )
            await database.execute(
                "UPDATE stripe.customers SET _raw_data = '{}' WHERE id = 'cus_1'"
            )
        assert await writing == newer
    # On a busy machine the next try may get the row before the waiting session does.
    assert _retries(captured, "40P01")
    names = await database.fetch("SELECT name FROM stripe.customers")
    assert [row["name"] for row in names] == ["new", "new"]


async def test_a_statement_that_takes_too_long_is_broken_off_and_tried_again(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    hasty = config.model_copy(update={"statement_timeout": 0.1})
    lock = database.transaction()
    await lock.start()
    await database.execute("LOCK TABLE stripe.customers IN EXCLUSIVE MODE")
    async with _retried(hasty, "57014"):
        await lock.rollback()


async def test_a_server_restart_is_retried(
    postgres_cluster: PostgresCluster,
    config: PostgresConfig,
    database_url: str,
    tables_made: asyncio.Event,
) -> None:
    last = await asyncpg.connect(database_url)
    stopping: list[psutil.Process] = []

    async def source() -> AsyncGenerator[Message, None]:
        await tables_made.wait()
        # No new session is accepted while this one lasts.
        stopping.append(postgres_cluster.shut_down_when_deserted())
        async with asyncio.timeout(10):
            while await _lets_in(database_url):  # noqa: ASYNC110 - there is no event for it
                await asyncio.sleep(0.01)
        await cut_others(last)
        for message in PAGE:
            yield message

    async with _retried(config, "57P03", source()):
        last.terminate()
        await asyncio.to_thread(stopping[0].wait, 60)
        await asyncio.to_thread(postgres_cluster.start_again)


async def _lets_in(url: str) -> bool:
    try:
        await (await asyncpg.connect(url)).close()
    except asyncpg.CannotConnectNowError:
        return False
    return True


async def test_a_stricter_isolation_of_the_database_is_not_ours(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    name = await database.fetchval("SELECT current_database()")
    await database.execute(
        f"""
        ALTER DATABASE "{name}" SET default_transaction_isolation = 'serializable';
        CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF current_setting('transaction_isolation') <> 'read committed' THEN
                RAISE EXCEPTION 'too strict';
            END IF;
            RETURN NULL;
        END $$;
        CREATE TRIGGER refuse BEFORE INSERT ON stripe.customers
            FOR EACH STATEMENT EXECUTE FUNCTION public.refuse()
        """
    )
    assert await write(config, [stream()], PAGE) == PAGE
