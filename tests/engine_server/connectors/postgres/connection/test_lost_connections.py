"""Connections lost at any point: every record is committed once, and yielded only then."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress

import asyncpg
import pytest
import structlog

from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.connection import retry
from engine_server.connectors.postgres.connection import transaction as transaction_module
from engine_server.connectors.postgres.destination import PostgresDestination
from engine_server.connectors.postgres.write import ordered_writer
from engine_server.errors import ConnectionFailed
from pipesync.v1.message_pb2 import Message
from tests.engine_server.connectors.postgres.builders import customer, logs, records, stream, write
from tests.engine_server.connectors.postgres.proxy import Proxy
from tests.engine_server.connectors.postgres.sessions import until
from tests.engine_server.stages.sequences import given
from tests.messages import checkpoint

PAGES = 6
CUTS = 30


@pytest.fixture
async def proxy(database_url: str) -> AsyncIterator[Proxy]:
    async with Proxy(database_url) as proxy:
        yield proxy


@pytest.fixture
async def config(proxy: Proxy) -> PostgresConfig:
    """A configuration through the proxy that commits each page by itself; the tables exist."""
    config = PostgresConfig.model_validate({"url": proxy.url, "batch_size": 1})
    await logs(PostgresDestination().setup(config, [stream()]))
    return config


@pytest.fixture(params=[1, 2], ids=["one by one", "two at once"])
def at_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """The number of concurrent transactions over the connections that are cut."""
    monkeypatch.setattr(ordered_writer, "MAX_FLUSHES", request.param)
    return int(request.param)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "_FIRST_DELAY", 0.002)


def _pages() -> list[Message]:
    return [
        message
        for number in range(PAGES)
        for message in (
            records("customers", customer(number)),
            checkpoint("customers", f"{number}"),
        )
    ]


async def _stored(database: asyncpg.Connection) -> set[str]:
    return {row["id"] for row in await database.fetch("SELECT id FROM stripe.customers")}


ALL = {f"cus_{number}" for number in range(PAGES)}
# Bytes on the wire, whether they are sent to Postgres, and whether they still arrive.
POINTS = {
    "before the transaction": (b"BEGIN", True, False),
    "as it begins": (b"BEGIN\0", False, False),
    "before the statement": (b"WITH incoming", True, False),
    "while the statement runs": (b"cus_0", True, True),
    "after the statement": (b"SELECT 1\0", False, False),
    "before the commit": (b"COMMIT\0", True, False),
    "while it commits": (b"COMMIT\0", True, True),
    "after the commit, before its answer": (b"COMMIT\0", False, False),
}


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(("text", "to_server", "deliver"), POINTS.values(), ids=POINTS.keys())
async def test_a_connection_lost_around_a_commit_is_made_again(
    proxy: Proxy,
    config: PostgresConfig,
    database: asyncpg.Connection,
    text: bytes,
    to_server: bool,
    deliver: bool,
    at_once: int,
    tables_made: asyncio.Event,
) -> None:
    async def source() -> AsyncGenerator[Message, None]:
        await tables_made.wait()
        proxy.cut_at(text, to_server=to_server, deliver=deliver)
        for message in _pages():
            yield message

    with structlog.testing.capture_logs() as captured:
        assert await write(config, [stream()], source()) == _pages()
    assert await _stored(database) == ALL
    assert 1 <= len(_retries(captured)) <= at_once
    committed = [entry for entry in captured if entry["event"] == "flush_committed"]
    assert len(committed) == PAGES
    # A commit without an answer is repeated, and has nothing left to do.
    unchanged = sum(entry["unchanged"] for entry in committed)
    if text != b"COMMIT\0":
        # Of two at once, the other one may be committing when its connection is cut.
        assert unchanged <= at_once - 1
    elif not to_server:
        assert 1 <= unchanged <= at_once


@pytest.mark.usefixtures("impatient")
async def test_a_connection_lost_after_any_number_of_bytes_loses_nothing(
    proxy: Proxy, config: PostgresConfig, database: asyncpg.Connection, tables_made: asyncio.Event
) -> None:
    before = 0

    async def source(cut_after: int | None) -> AsyncGenerator[Message, None]:
        nonlocal before
        await tables_made.wait()
        before = proxy.passed
        if cut_after is not None:
            proxy.cut_after(cut_after)
        for message in _pages():
            yield message

    assert await write(config, [stream()], source(None)) == _pages()
    total = proxy.passed - before
    for count in range(1, total, total // CUTS):
        await database.execute("TRUNCATE stripe.customers")
        tables_made.clear()
        assert await write(config, [stream()], source(count)) == _pages(), count
        assert await _stored(database) == ALL, count


async def test_acknowledged_records_are_committed_wherever_the_connection_ends(
    proxy: Proxy,
    config: PostgresConfig,
    database: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    at_once: int,
) -> None:
    monkeypatch.setattr(retry, "SYNC_TIMEOUT", 0.0)
    before = proxy.passed
    await write(config, [stream()], _pages())
    total = proxy.passed - before
    ends = set()
    for count in range(1, total, total // CUTS):
        await database.execute("TRUNCATE stripe.customers")
        proxy.cut_after(count)
        last = -1
        outgoing = PostgresDestination().write(config, [stream()], given(*_pages()))
        async with aclosing(outgoing):
            with suppress(ConnectionFailed):
                async for message in outgoing:
                    if message.HasField("source_state"):
                        last = int(message.source_state.data)
        assert {f"cus_{number}" for number in range(last + 1)} <= await _stored(database), count
        ends.add(last)
    # A cut happened between any two checkpoints that were not committed together.
    assert len(ends) >= PAGES / at_once
    assert -1 in ends


async def test_a_server_that_says_nothing_is_left_for_another_connection(
    proxy: Proxy,
    config: PostgresConfig,
    monkeypatch: pytest.MonkeyPatch,
    tables_made: asyncio.Event,
) -> None:
    monkeypatch.setattr(transaction_module, "_GRACE", 0.1)
    hasty = config.model_copy(update={"statement_timeout": 0.1})

    async def source() -> AsyncGenerator[Message, None]:
        await tables_made.wait()
        proxy.stall()
        for message in _pages():
            yield message

    with structlog.testing.capture_logs() as captured:
        writing = asyncio.create_task(write(hasty, [stream()], source()))
        await _until_retried(captured)
        proxy.flow()
        assert await writing == _pages()
    assert "no answer for" in _retries(captured)[0]["error"]


async def test_a_server_that_refuses_connections_for_a_while_is_retried(
    proxy: Proxy, config: PostgresConfig, database: asyncpg.Connection, tables_made: asyncio.Event
) -> None:
    async def source() -> AsyncGenerator[Message, None]:
        await tables_made.wait()
        await proxy.close()
        for message in _pages():
            yield message

    with structlog.testing.capture_logs() as captured:
        writing = asyncio.create_task(write(config, [stream()], source()))
        await _until_retried(captured, times=2)
        await proxy.open()
        assert await writing == _pages()
    assert await _stored(database) == ALL
    first, second, *_ = _retries(captured)
    # The first attempt may have got the error on its existing connection.
    assert "Connect call failed" in second["error"]
    # Each delay is at least half of its maximum, and rounded.
    assert first["delay_s"] <= 0.1 <= 2 * second["delay_s"] <= 0.4


async def test_a_cancelled_write_through_a_stalled_network_leaves_no_session_behind(
    proxy: Proxy, config: PostgresConfig, database: asyncpg.Connection
) -> None:
    tasks_before = asyncio.all_tasks()
    stalled = asyncio.Event()

    async def source() -> AsyncGenerator[Message, None]:
        yield records("customers", customer(1))
        await until(database, "SELECT count(*) = 1 FROM stripe.customers")
        proxy.stall()
        yield records("customers", customer(2))
        stalled.set()
        await asyncio.Event().wait()

    writing = asyncio.create_task(write(config, [stream()], source()))
    await stalled.wait()
    async with asyncio.timeout(1):
        writing.cancel()
        with suppress(asyncio.CancelledError):
            await writing
    proxy.flow()
    await until(
        database,
        "SELECT count(*) = 0 FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
    # A closed proxy leaves no task, too.
    await proxy.close()
    assert asyncio.all_tasks() <= tasks_before
    assert await _stored(database) == {"cus_1"}


def _retries(captured: list[structlog.typing.EventDict]) -> list[structlog.typing.EventDict]:
    return [dict(entry) for entry in captured if entry["event"] == "transaction_retried"]


async def _until_retried(captured: list[structlog.typing.EventDict], *, times: int = 1) -> None:
    async with asyncio.timeout(10):
        while len(_retries(captured)) < times:  # noqa: ASYNC110 - a log line is no event
            await asyncio.sleep(0.01)
