"""Order of yielded messages: each only after the records that it accounts for are committed."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress

import asyncpg
import pytest

from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.destination import PostgresDestination
from engine_server.connectors.postgres.rows import batch
from engine_server.errors import ConnectorError
from pipesync.v1.message_pb2 import Barrier, Message
from tests.engine_server.connectors.postgres.builders import (
    customer,
    log_line,
    logs,
    records,
    stream,
    write,
)
from tests.engine_server.connectors.postgres.sessions import until, until_blocked
from tests.engine_server.stages.sequences import given
from tests.messages import checkpoint, completed, rows_written

COUNT = "SELECT count(*) FROM stripe.customers"


async def _setup(config: PostgresConfig, *names: str) -> None:
    await logs(PostgresDestination().setup(config, [stream(name) for name in names]))


@pytest.fixture
def small_batches(database_url: str) -> PostgresConfig:
    """A configuration that flushes every two rows."""
    return PostgresConfig.model_validate({"url": database_url, "batch_size": 2})


def _pages(count: int) -> list[Message]:
    """Return pages of one record and the checkpoint that names it."""
    return [
        message
        for number in range(count)
        for message in (
            records("customers", customer(number)),
            checkpoint("customers", str(number)),
        )
    ]


async def test_rows_before_a_barrier_are_flushed_now(
    config: PostgresConfig, database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "MAX_AGE", 3600.0)
    barrier = Message(barrier=Barrier(number=1))

    async def source() -> AsyncGenerator[Message, None]:
        yield records("customers", customer(1))
        yield barrier
        await asyncio.Event().wait()

    async with aclosing(PostgresDestination().write(config, [stream()], source())) as outgoing:
        while await anext(outgoing) != barrier:
            pass
        assert await database.fetchval(COUNT) == 1


async def test_the_source_is_at_work_while_the_tables_are_made(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    asked = asyncio.Event()

    async def source() -> AsyncGenerator[Message, None]:
        asked.set()
        for message in _pages(1):
            yield message

    making = database.transaction()
    await making.start()
    # Another session that creates the table waits for this transaction.
    await database.execute("CREATE SCHEMA stripe")
    writing = asyncio.create_task(write(config, [stream()], source()))
    async with asyncio.timeout(10):
        await asked.wait()
    assert not writing.done()
    await making.rollback()
    assert await writing == _pages(1)
    assert await database.fetchval(COUNT) == 1


async def test_a_source_whose_tables_cannot_be_made_is_left_at_once(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    tasks_before = asyncio.all_tasks()
    ended = asyncio.Event()

    async def source() -> AsyncGenerator[Message, None]:
        try:
            await asyncio.Event().wait()
            yield checkpoint("customers")
        finally:
            ended.set()

    await database.execute(
        """
        CREATE FUNCTION public.refuse() RETURNS event_trigger LANGUAGE plpgsql
            AS $$ BEGIN RAISE 'no such schema'; END $$;
        CREATE EVENT TRIGGER refuses ON ddl_command_end WHEN TAG IN ('CREATE SCHEMA')
            EXECUTE FUNCTION public.refuse()
        """
    )
    with pytest.raises(ConnectorError, match=r'no such schema .*; so not created schema "stripe"'):
        await write(config, [stream()], source())
    assert ended.is_set()
    assert asyncio.all_tasks() == tasks_before


async def test_every_message_is_outgoing_in_order(small_batches: PostgresConfig) -> None:
    messages = [
        checkpoint("", "{}"),
        *_pages(7),
        records("customers"),
        completed("customers"),
        records("products", customer(1)),
        checkpoint("products"),
        completed("products"),
    ]
    streams = [stream(), stream("products")]
    assert await write(small_batches, streams, messages) == messages


async def test_yielded_records_are_visible_to_others(
    small_batches: PostgresConfig, database: asyncpg.Connection
) -> None:
    seen = 0
    outgoing = PostgresDestination().write(small_batches, [stream()], given(*_pages(9)))
    async with aclosing(outgoing):
        async for message in outgoing:
            if not message.HasField("log"):
                seen += message.HasField("record_batch")
                assert await database.fetchval(COUNT) >= seen
    assert seen == 9


async def test_a_checkpoint_waits_for_the_commit_of_its_records(
    small_batches: PostgresConfig, database: asyncpg.Connection
) -> None:
    await _setup(small_batches, "customers")
    messages = [
        records("customers", customer(1), customer(2)),
        checkpoint("customers"),
        log_line("overtakes"),
    ]
    outgoing = PostgresDestination().write(small_batches, [stream()], given(*messages))
    async with aclosing(outgoing):
        async with database.transaction():
            await database.execute("LOCK TABLE stripe.customers IN EXCLUSIVE MODE")
            assert await anext(outgoing) == messages[2]
            following = asyncio.create_task(_next(outgoing))
            await until_blocked(database)
            assert not following.done()
        assert await following == messages[0]
        assert await anext(outgoing) == rows_written("customers", inserted=2)
        assert await anext(outgoing) == messages[1]


async def test_checkpoints_are_yielded_while_the_source_idles(config: PostgresConfig) -> None:
    idle = asyncio.Event()

    async def source() -> AsyncGenerator[Message, None]:
        for message in _pages(1):
            yield message
        await idle.wait()

    outgoing = PostgresDestination().write(config, [stream()], source())
    async with aclosing(outgoing):
        record, saved = _pages(1)
        yielded: list[Message] = []
        while len(yielded) < 3:
            message = await anext(outgoing)
            if not message.HasField("log"):
                yielded.append(message)
        assert yielded == [record, rows_written("customers", inserted=1), saved]


async def test_a_status_and_a_global_checkpoint_wait_as_well(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    messages = [records("customers", customer(1)), checkpoint(""), completed("products")]
    outgoing = PostgresDestination().write(config, [stream(), stream("products")], given(*messages))
    async with aclosing(outgoing):
        async for message in outgoing:
            if not message.HasField("log"):
                assert await database.fetchval(COUNT) == 1


async def test_small_streams_share_a_commit(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    names = ["customers", "products", "prices"]
    await write(
        config, [stream(name) for name in names], [records(name, customer(1)) for name in names]
    )
    transactions = {
        await database.fetchval(f"SELECT xmin::text FROM stripe.{name}")  # noqa: S608 - ours
        for name in names
    }
    assert len(transactions) == 1


async def test_flushes_of_different_streams_overlap(
    small_batches: PostgresConfig, database: asyncpg.Connection
) -> None:
    await _setup(small_batches, "customers", "products")
    messages = [
        records("customers", customer(1), customer(2)),
        records("products", customer(1), customer(2)),
    ]
    streams = [stream(), stream("products")]
    outgoing = PostgresDestination().write(small_batches, streams, given(*messages))
    async with aclosing(outgoing):
        async with database.transaction():
            await database.execute("LOCK TABLE stripe.customers IN EXCLUSIVE MODE")
            following = asyncio.create_task(_next(outgoing))
            await until(database, "SELECT count(*) = 2 FROM stripe.products")
            assert not following.done()
        assert await following == messages[0]
        assert await anext(outgoing) == rows_written("customers", inserted=2)
        assert await anext(outgoing) == messages[1]


async def test_the_later_of_two_flushes_in_flight_wins_a_row_of_the_same_second(
    small_batches: PostgresConfig, database: asyncpg.Connection
) -> None:
    await _setup(small_batches, "accounts", "customers")
    messages = [
        records("accounts", customer(1)),
        records("customers", customer(1, name="earlier")),
        records("customers", customer(1, name="later"), customer(2)),
    ]
    streams = [stream("accounts"), stream("customers")]
    async with database.transaction():
        # The first flush waits here, before it reaches customers.
        await database.execute("LOCK TABLE stripe.accounts IN EXCLUSIVE MODE")
        writing = asyncio.create_task(write(small_batches, streams, messages))
        await until_blocked(database)
        # Enough time for the second flush, if it did not wait for the first.
        await asyncio.wait([writing], timeout=0.2)
    assert await writing == messages
    name = await database.fetchval("SELECT name FROM stripe.customers WHERE id = 'cus_1'")
    assert name == "later"


async def test_closing_at_any_point_leaves_every_yielded_checkpoint_backed_by_rows(
    small_batches: PostgresConfig, database: asyncpg.Connection
) -> None:
    await _setup(small_batches, "customers")
    for stop_after in range(12):
        await database.execute("TRUNCATE stripe.customers")
        last = -1
        outgoing = PostgresDestination().write(small_batches, [stream()], given(*_pages(6)))
        async with aclosing(outgoing):
            for _ in range(stop_after):
                message = await anext(outgoing)
                if message.HasField("source_state"):
                    last = int(message.source_state.data)
        stored = await database.fetch("SELECT id FROM stripe.customers")
        assert {f"cus_{number}" for number in range(last + 1)} <= {row["id"] for row in stored}


async def test_closing_ends_every_task_and_connection_while_source_and_database_block(
    small_batches: PostgresConfig, database: asyncpg.Connection
) -> None:
    await _setup(small_batches, "customers")
    tasks_before = asyncio.all_tasks()
    source_ended = asyncio.Event()

    async def source() -> AsyncGenerator[Message, None]:
        try:
            yield log_line("reading")
            yield records("customers", customer(1), customer(2))
            await asyncio.Event().wait()
        finally:
            source_ended.set()

    outgoing = PostgresDestination().write(small_batches, [stream()], source())
    async with database.transaction():
        await database.execute("LOCK TABLE stripe.customers IN EXCLUSIVE MODE")
        await anext(outgoing)
        writing = asyncio.create_task(_next(outgoing))
        await until_blocked(database)
        began = time.monotonic()
        writing.cancel()
        with suppress(asyncio.CancelledError):
            await writing
        await outgoing.aclose()
        assert time.monotonic() - began < 1
    assert source_ended.is_set()
    assert asyncio.all_tasks() == tasks_before
    await until(
        database, "SELECT count(*) = 1 FROM pg_stat_activity WHERE datname = current_database()"
    )


async def test_closing_takes_less_than_a_second_though_postgres_answers_nothing(
    small_batches: PostgresConfig, database: asyncpg.Connection
) -> None:
    await _setup(small_batches, "customers")
    tasks_before = asyncio.all_tasks()
    frozen = []
    outgoing = PostgresDestination().write(
        small_batches,
        [stream()],
        given(log_line("reading"), records("customers", customer(1), customer(2))),
    )
    try:
        async with database.transaction():
            await database.execute("LOCK TABLE stripe.customers IN EXCLUSIVE MODE")
            await anext(outgoing)
            writing = asyncio.create_task(_next(outgoing))
            await until_blocked(database)
            frozen = [
                row["pid"]
                for row in await database.fetch(
                    "SELECT pid FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            ]
            for pid in frozen:
                os.kill(pid, signal.SIGSTOP)
            began = time.monotonic()
            writing.cancel()
            with suppress(asyncio.CancelledError):
                await writing
            await outgoing.aclose()
            assert time.monotonic() - began < 1
    finally:
        for pid in frozen:
            os.kill(pid, signal.SIGCONT)
    assert asyncio.all_tasks() == tasks_before


async def _next(messages: AsyncIterator[Message]) -> Message:
    return await anext(messages)
