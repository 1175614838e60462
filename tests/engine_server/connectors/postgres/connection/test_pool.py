"""Writes to one database share its connections."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress

import asyncpg
import pytest
import structlog

from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.connection import pool, pools
from engine_server.connectors.postgres.connection.pools import MAX_CONNECTIONS, Pools
from pipesync.v1.message_pb2 import Message
from tests.engine_server.connectors.postgres.builders import (
    DESTINATION,
    customer,
    logs,
    records,
    stream,
    write,
)
from tests.engine_server.connectors.postgres.sessions import until, until_blocked
from tests.engine_server.stages.sequences import given
from tests.messages import checkpoint

MORE_THAN_FIT = 3 * MAX_CONNECTIONS
OTHER_SESSIONS = (
    "SELECT count(*) FROM pg_stat_activity "
    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
)

BLOCKED_SESSIONS = "SELECT count(*) FROM pg_locks WHERE NOT granted"


def page(number: int) -> list[Message]:
    """Return a record that no other page has, and its checkpoint."""
    return [records("customers", customer(number)), checkpoint("customers", str(number))]


async def test_writes_beyond_the_connections_wait_for_their_turn(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    await logs(DESTINATION.setup(config, [stream()]))
    async with database.transaction():
        await database.execute("LOCK TABLE stripe.customers IN EXCLUSIVE MODE")
        writing = [
            asyncio.create_task(write(config, [stream()], page(number)))
            for number in range(MORE_THAN_FIT)
        ]
        await until(database, f"SELECT ({BLOCKED_SESSIONS}) = {MAX_CONNECTIONS}")
        assert await database.fetchval(OTHER_SESSIONS) == MAX_CONNECTIONS
    written = await asyncio.gather(*writing)
    assert written == [page(number) for number in range(MORE_THAN_FIT)]
    assert await database.fetchval("SELECT count(*) FROM stripe.customers") == MORE_THAN_FIT
    await until(database, f"SELECT ({OTHER_SESSIONS}) = 0")


async def test_where_pools_linger_the_next_write_finds_its_connection(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    sessions = f"SELECT array_agg(pid) {OTHER_SESSIONS.removeprefix('SELECT count(*)')}"
    async with DESTINATION.lifespan():
        await write(config, [stream()], page(1))
        found = await database.fetchval(sessions)
        await write(config, [stream()], page(2))
        assert await database.fetchval(sessions) == found
    await until(database, f"SELECT ({OTHER_SESSIONS}) = 0")


async def test_an_unused_pool_is_closed_after_a_while(
    config: PostgresConfig, database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "_IDLE_TIMEOUT", 0.05)
    async with DESTINATION.lifespan():
        await write(config, [stream()], page(1))
        await until(database, f"SELECT ({OTHER_SESSIONS}) = 0")
        await write(config, [stream()], page(2))
    assert await database.fetchval("SELECT count(*) FROM stripe.customers") == 2


async def test_a_write_continues_when_pools_are_no_longer_kept_alive(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    begun, given_up = asyncio.Event(), asyncio.Event()

    async def source() -> AsyncGenerator[Message, None]:
        begun.set()
        await given_up.wait()
        for message in page(1):
            yield message

    async with DESTINATION.lifespan():
        writing = asyncio.create_task(write(config, [stream()], source()))
        await begun.wait()
    given_up.set()
    await writing
    assert await database.fetchval("SELECT count(*) FROM stripe.customers") == 1
    await until(database, f"SELECT ({OTHER_SESSIONS}) = 0")


async def test_a_write_that_waits_for_its_source_holds_no_connection(
    database_url: str,
) -> None:
    config = PostgresConfig.model_validate({"url": database_url, "batch_size": 1})
    may_end = asyncio.Event()

    async def source(number: int) -> AsyncGenerator[Message, None]:
        for message in page(number):
            yield message
        await may_end.wait()

    async def consume(number: int, committed: asyncio.Event) -> None:
        outgoing = DESTINATION.write(config, [stream()], source(number))
        async with aclosing(outgoing):
            async for message in outgoing:
                if message.HasField("source_state"):
                    committed.set()

    async with asyncio.TaskGroup() as writing:
        for number in range(MORE_THAN_FIT):
            committed = asyncio.Event()
            writing.create_task(consume(number, committed))
            # Each write commits although all earlier ones are still running.
            await committed.wait()
        may_end.set()


async def test_cancelling_a_write_drops_its_own_connection_and_no_other(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    streams = [stream("customers"), stream("products")]
    await logs(DESTINATION.setup(config, streams))
    kept = [records("products", customer(1)), checkpoint("products")]
    frozen = 0
    try:
        with structlog.testing.capture_logs() as captured:
            async with database.transaction():
                await database.execute("LOCK TABLE stripe.customers IN EXCLUSIVE MODE")
                cancelled = asyncio.create_task(write(config, streams, given(*page(1))))
                await until_blocked(database)
                frozen = await database.fetchval("SELECT pid FROM pg_locks WHERE NOT granted")
                await database.execute("LOCK TABLE stripe.products IN EXCLUSIVE MODE")
                writing = asyncio.create_task(write(config, streams, kept))
                await until(database, f"SELECT ({BLOCKED_SESSIONS}) = 2")
                os.kill(frozen, signal.SIGSTOP)
                began = time.monotonic()
                cancelled.cancel()
                with suppress(asyncio.CancelledError):
                    await cancelled
                assert time.monotonic() - began < 1
            assert await writing == kept
        assert [entry["event"] for entry in captured] == ["flush_committed"]
    finally:
        if frozen:
            os.kill(frozen, signal.SIGCONT)


async def test_a_session_that_turns_read_only_is_not_used_again(config: PostgresConfig) -> None:
    async def backend(connection: pool.Connection) -> int:
        pid: int = await connection.fetchval("SELECT pg_backend_pid()")
        return pid

    async def turn(connection: pool.Connection) -> None:
        await connection.execute("SET default_transaction_read_only = on")

    async with Pools().open(config) as opened:
        first = await pool.use(opened, backend)
        assert await pool.use(opened, backend) == first
        await pool.use(opened, turn)
        assert await pool.use(opened, backend) != first
