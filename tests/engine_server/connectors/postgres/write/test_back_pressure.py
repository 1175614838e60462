"""A slow database slows reading, and memory stays bounded."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import asyncpg
import pytest
from pydantic import SecretStr

from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.destination import PostgresDestination
from engine_server.connectors.postgres.rows import batch as batch_module
from engine_server.connectors.postgres.write import ordered_writer
from engine_server.read_ahead import MOST_WAITING
from pipesync.v1.message_pb2 import Message
from tests.engine_server.connectors.postgres.builders import customer, logs, records, stream, write
from tests.engine_server.connectors.postgres.proxy import Proxy
from tests.engine_server.connectors.postgres.sessions import until_blocked
from tests.messages import checkpoint


@pytest.fixture
def small_batches(database_url: str) -> PostgresConfig:
    """A configuration that flushes every two rows."""
    return PostgresConfig.model_validate({"url": database_url, "batch_size": 2})


async def test_a_blocked_database_stops_reading(
    small_batches: PostgresConfig, database: asyncpg.Connection
) -> None:
    await logs(PostgresDestination().setup(small_batches, [stream()]))
    read: list[int] = []

    async def source() -> AsyncGenerator[Message, None]:
        for number in range(100):
            read.append(number)
            yield records("customers", customer(number))

    outgoing = PostgresDestination().write(small_batches, [stream()], source())
    async with aclosing(outgoing):
        async with database.transaction():
            await database.execute("LOCK TABLE stripe.customers IN EXCLUSIVE MODE")
            following = asyncio.create_task(_next(outgoing))
            await until_blocked(database)
            await asyncio.wait([following], timeout=0.2)
            # Two flushes in flight and a third batch full.
            assert 6 <= len(read) <= 6 + MOST_WAITING
        await following


async def test_a_stalled_network_stops_a_fast_source(
    small_batches: PostgresConfig, database_url: str
) -> None:
    await logs(PostgresDestination().setup(small_batches, [stream()]))
    total, read = 200, 0
    stalled = asyncio.Event()

    async def source() -> AsyncGenerator[Message, None]:
        nonlocal read
        for number in range(total):
            if number == 100:
                proxy.stall()
                stalled.set()
            read += 1
            yield records("customers", customer(number))

    async with Proxy(database_url) as proxy:
        config = small_batches.model_copy(update={"url": SecretStr(proxy.url)})
        writing = asyncio.create_task(write(config, [stream()], source()))
        await stalled.wait()
        await asyncio.wait([writing], timeout=0.2)
        # Two flushes in flight, a full third batch, and messages that were read ahead.
        assert 100 <= read <= 106 + MOST_WAITING
        proxy.flow()
        assert len(await writing) == total


async def test_checkpoints_without_records_do_not_gather_without_end(
    small_batches: PostgresConfig, database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ordered_writer, "_MAX_HELD", 50)
    await logs(PostgresDestination().setup(small_batches, [stream()]))
    total, read = 200, 0

    async def source() -> AsyncGenerator[Message, None]:
        nonlocal read
        yield records("customers", customer(1), customer(2))
        for number in range(total):
            read += 1
            yield checkpoint("customers", str(number))

    async with database.transaction():
        await database.execute("LOCK TABLE stripe.customers IN EXCLUSIVE MODE")
        writing = asyncio.create_task(write(small_batches, [stream()], source()))
        await until_blocked(database)
        await asyncio.wait([writing], timeout=0.2)
        assert 49 <= read <= 49 + MOST_WAITING
    assert len(await writing) == 1 + total


async def test_a_batch_is_full_by_bytes_too(
    config: PostgresConfig, database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_module, "MAX_BYTES", 10_000)
    big = [records("customers", customer(number, name="x" * 6_000)) for number in range(6)]
    await write(config, [stream()], big)
    transactions = await database.fetchval(
        "SELECT count(DISTINCT xmin::text) FROM stripe.customers"
    )
    assert transactions == 3


async def _next(messages: AsyncIterator[Message]) -> Message:
    return await anext(messages)
