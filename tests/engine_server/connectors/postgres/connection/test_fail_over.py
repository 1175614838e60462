"""The primary crashes in the middle of a write, and its standby takes over."""

import asyncio
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import asyncpg
import pytest
import structlog

from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.connection import retry
from engine_server.connectors.postgres.destination import PostgresDestination
from pipesync.v1.message_pb2 import Message
from service_server.store.database import Database
from tests.engine_server.connectors.postgres.builders import customer, records, stream, write
from tests.engine_server.connectors.postgres.proxy import Proxy
from tests.engine_server.connectors.postgres.sessions import until
from tests.messages import checkpoint
from tests.postgres import PostgresCluster, Standby

BEFORE, AFTER = 30, 60
# Each test creates two clusters, which takes long on a busy machine.
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "SYNC_TIMEOUT", 600.0)
    monkeypatch.setattr(retry, "_FIRST_DELAY", 0.01)
    monkeypatch.setattr(retry, "_LONGEST_DELAY", 0.1)


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pipesync-tests-", ignore_cleanup_errors=True) as home:
        yield Path(home)


@pytest.fixture
def primary(directory: Path) -> Iterator[PostgresCluster]:
    cluster = PostgresCluster(directory / "primary")
    yield cluster
    cluster.stop()


@pytest.fixture
async def standby(primary: PostgresCluster, directory: Path) -> AsyncIterator[Standby]:
    """A standby that has every transaction before its commit is acknowledged."""
    await primary.trade_durability_for_speed()
    standby = await asyncio.to_thread(primary.standby, directory / "standby")
    database = await asyncpg.connect(primary.url("postgres"))
    await database.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
    await database.execute("ALTER SYSTEM SET synchronous_commit = 'remote_apply'")
    await database.execute("SELECT pg_reload_conf()")
    await until(database, "SELECT count(*) = 1 FROM pg_stat_replication WHERE sync_state = 'sync'")
    await database.close()
    yield standby
    await asyncio.to_thread(standby.stop)


async def _stored(url: str) -> set[str]:
    database = await asyncpg.connect(url)
    rows = await database.fetch("SELECT id FROM stripe.customers")
    await database.close()
    return {row["id"] for row in rows}


async def test_a_fail_over_in_the_middle_of_a_write_loses_nothing(
    primary: PostgresCluster, standby: Standby
) -> None:
    acknowledged: set[str] = set()

    async def source() -> AsyncGenerator[Message, None]:
        for number in range(AFTER):
            if number == BEFORE:
                await asyncio.to_thread(primary.crash)
                promised = set(acknowledged)
                proxy.lead_to(standby.url("postgres"))
                assert promised <= await _stored(standby.url("postgres"))
            yield records("customers", customer(number))
            yield checkpoint("customers", f"cus_{number}")

    async def consume(config: PostgresConfig) -> None:
        async with aclosing(PostgresDestination().write(config, [stream()], source())) as outgoing:
            async for message in outgoing:
                if message.HasField("source_state"):
                    acknowledged.add(message.source_state.data)

    async with Proxy(primary.url("postgres")) as proxy:
        config = PostgresConfig.model_validate({"url": proxy.url, "batch_size": 1})
        with structlog.testing.capture_logs() as captured:
            writing = asyncio.create_task(consume(config))
            async with asyncio.timeout(300):
                while "25006" not in repr(captured):  # noqa: ASYNC110 - a log line is no event
                    await asyncio.sleep(0.01)
            assert not writing.done()
            await asyncio.to_thread(standby.promote)
            await writing
    everything = {f"cus_{number}" for number in range(AFTER)}
    assert acknowledged == everything
    assert await _stored(standby.url("postgres")) == everything


async def test_the_server_that_can_be_written_to_is_found_among_several(
    primary: PostgresCluster, standby: Standby
) -> None:
    servers = [parse_qs(urlsplit(one.url("")).query)["host"][0] for one in (standby, primary)]
    url = f"postgresql://postgres@/postgres?host={','.join(servers)}"
    config = PostgresConfig.model_validate({"url": f"{url}&target_session_attrs=read-write"})
    await write(config, [stream()], [records("customers", customer(1))])
    async with Database.open(f"{url}&target_session_attrs=read-write") as database:
        async with database.transaction() as connection:
            await connection.execute("CREATE TABLE written ()")
        await asyncio.to_thread(primary.crash)
        await asyncio.to_thread(standby.promote)
        await write(config, [stream()], [records("customers", customer(2))])
        assert await _stored(standby.url("postgres")) == {"cus_1", "cus_2"}
    async with (
        Database.open(f"{url}&target_session_attrs=read-write") as database,
        database.transaction() as connection,
    ):
        await connection.execute("INSERT INTO written DEFAULT VALUES")


async def test_of_several_hosts_the_one_that_takes_writes_is_used(
    primary: PostgresCluster, standby: Standby
) -> None:
    urls = standby.url("postgres"), primary.url("postgres")
    hosts = ",".join(parse_qs(urlsplit(url).query)["host"][0] for url in urls)
    config = PostgresConfig.model_validate(
        {"url": f"postgresql://postgres@/postgres?host={quote(hosts, safe='')}"}
    )
    page = [records("customers", customer(1)), checkpoint("customers")]
    assert await write(config, [stream()], page) == page
    await asyncio.to_thread(primary.crash)
    later = [records("customers", customer(2)), checkpoint("customers")]
    writing = asyncio.create_task(write(config, [stream()], later))
    await asyncio.to_thread(standby.promote)
    assert await writing == later
    assert await _stored(standby.url("postgres")) == {"cus_1", "cus_2"}
