"""Connections lost while checkpoints are recorded: each is recorded once, and is true."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.connection import retry
from engine_server.connectors.postgres.write import ordered_writer
from pipesync.v1.message_pb2 import Message
from tests.engine_server.connectors.postgres.builders import customer, records, stream
from tests.engine_server.connectors.postgres.proxy import Proxy
from tests.engine_server.connectors.postgres.resuming import Caller
from tests.engine_server.connectors.postgres.schemas import set_up
from tests.messages import checkpoint

PAGES = 4
CUTS = 12
ENTRIES = "SELECT stream, checkpoint FROM stripe._pipesync_checkpoints WHERE stream <> '(inputs)'"


@pytest.fixture
async def proxy(database_url: str) -> AsyncIterator[Proxy]:
    async with Proxy(database_url) as proxy:
        yield proxy


@pytest.fixture
async def caller(proxy: Proxy) -> Caller:
    """A configuration that goes through the proxy and commits each page by itself."""
    config = PostgresConfig.model_validate({"url": proxy.url, "batch_size": 1})
    await set_up(config, stream())
    return Caller(config, stream())


@pytest.fixture(params=[1, 2], ids=["one by one", "two at once"])
def at_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(ordered_writer, "MAX_FLUSHES", request.param)
    return int(request.param)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "_FIRST_DELAY", 0.002)


def _pages(first: int) -> list[Message]:
    pages = [
        message
        for number in range(first, first + PAGES)
        for message in (
            records("customers", customer(number)),
            checkpoint("customers", f'{{"page": {number}}}'),
        )
    ]
    return [*pages, checkpoint("", f'{{"cursor": {first}}}')]


async def _assert_recorded(caller: Caller, database: asyncpg.Connection, first: int) -> None:
    source = caller.state.source
    assert source.streams["customers"] == f'{{"page": {first + PAGES - 1}}}'
    assert {row["stream"]: row["checkpoint"] for row in await database.fetch(ENTRIES)} == {
        "": source.shared,
        "customers": source.streams["customers"],
    }
    assert await database.fetchval("SELECT count(*) FROM stripe.customers") == first + PAGES
    assert (await caller.resume()).rewinds == []


@pytest.mark.usefixtures("at_once")
async def test_a_connection_cut_anywhere_is_retried(
    proxy: Proxy, caller: Caller, database: asyncpg.Connection
) -> None:
    began = proxy.passed
    await caller.sync(*_pages(0))
    length = proxy.passed - began
    for cut in range(1, CUTS):
        proxy.cut_after(length * cut // CUTS)
        await caller.sync(*_pages(cut * PAGES))
        await _assert_recorded(caller, database, cut * PAGES)


# Bytes on the wire, whether they are sent to Postgres, and whether they still arrive.
POINTS = {
    "before the entries are moved": (b"WITH moved", True, False),
    "while the entries are moved": (b"WITH moved", True, True),
    "after the commit, before its answer": (b"COMMIT\0", False, False),
    "before the comparison": (b"FOR UPDATE", True, False),
    "while a new epoch begins": (b'INSERT INTO "stripe"."_pipesync_checkpoints"', True, True),
}


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(("text", "to_server", "deliver"), POINTS.values(), ids=POINTS.keys())
async def test_a_connection_cut_at_a_statement_is_retried(
    proxy: Proxy,
    caller: Caller,
    database: asyncpg.Connection,
    text: bytes,
    to_server: bool,
    deliver: bool,
) -> None:
    await caller.sync(*_pages(0))
    proxy.cut_at(text, to_server=to_server, deliver=deliver)
    await caller.sync(*_pages(PAGES))
    await _assert_recorded(caller, database, PAGES)


@pytest.mark.usefixtures("at_once")
async def test_the_lost_answer_to_a_comparison_changes_none_of_it(
    proxy: Proxy, caller: Caller, database: asyncpg.Connection
) -> None:
    await caller.sync(*_pages(0))
    await database.execute("TRUNCATE stripe.customers")
    proxy.cut_at(b"COMMIT\0", to_server=False, deliver=False)
    resumed = await caller.resume()
    assert [(rewind.stream, rewind.checkpoint) for rewind in resumed.rewinds] == [
        ("customers", None)
    ]
    await caller.write(resumed, _pages(0))
    await _assert_recorded(caller, database, 0)
