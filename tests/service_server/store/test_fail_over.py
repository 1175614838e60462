"""Failover of the service's database to a standby."""

import asyncio
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import asyncpg
import pytest

from pipesync_postgres.url import parse_url
from service_server.errors import StoreUnavailable
from service_server.store import database as database_module
from service_server.store.connecting import wanted_server
from service_server.store.database import Database
from tests.engine_server.connectors.postgres.proxy import Proxy
from tests.engine_server.connectors.postgres.sessions import until
from tests.postgres import PostgresCluster, Standby

# Each test creates two clusters, which may take long on a busy machine.
pytestmark = pytest.mark.timeout(900)


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
def standby(primary: PostgresCluster, directory: Path) -> Iterator[Standby]:
    standby = primary.standby(directory / "standby")
    yield standby
    standby.stop()


def _both(*urls: str) -> str:
    """Return one URL for several servers in this order."""
    hosts = [parse_qs(urlsplit(url).query)["host"][0] for url in urls]
    return f"postgresql://postgres@/postgres?host={quote(','.join(hosts), safe='')}"


async def _note(database: Database) -> None:
    async with database.transaction() as connection:
        await connection.execute("INSERT INTO noted VALUES (1)")


async def _note_with_retries(database: Database) -> None:
    while True:
        try:
            return await _note(database)
        except StoreUnavailable:
            await asyncio.sleep(0.05)


async def _prepare(primary: PostgresCluster, standby: Standby) -> None:
    connection = await asyncpg.connect(primary.url("postgres"))
    await connection.execute("CREATE TABLE noted (n int)")
    await connection.close()
    replayed = await asyncpg.connect(standby.url("postgres"))
    await until(replayed, "SELECT to_regclass('noted') IS NOT NULL")
    await replayed.close()


async def test_of_several_hosts_the_writable_one_is_used(
    primary: PostgresCluster, standby: Standby
) -> None:
    await _prepare(primary, standby)
    url = _both(standby.url("postgres"), primary.url("postgres"))
    async with Database.open(url) as database:
        await _note(database)
        await asyncio.to_thread(primary.crash)
        with pytest.raises(StoreUnavailable):
            await _note(database)
        await asyncio.to_thread(standby.promote)
        async with asyncio.timeout(30):
            await _note_with_retries(database)


async def test_an_unreachable_host_does_not_hide_the_new_primary(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "_CONNECT_TIMEOUT", 6.0)
    with socket.socket() as vanished:
        vanished.bind(("127.0.0.1", 0))
        vanished.listen(100)
        async with Proxy(database_url) as proxy:
            ports = vanished.getsockname()[1], proxy.port
            hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
            url = proxy.url.replace(f"127.0.0.1:{proxy.port}", hosts)
            async with Database.open(url) as database:
                for _ in range(3):
                    # As after every fault of a connection, the next call opens a new one.
                    await database._pool.expire_connections()
                    async with database.connection() as connection:
                        assert await connection.fetchval("SELECT 1") == 1


async def test_the_new_primary_is_found_behind_the_same_address(
    primary: PostgresCluster, standby: Standby
) -> None:
    """Sessions of the demoted server still work, but only for reads."""
    await _prepare(primary, standby)
    async with Proxy(standby.url("postgres")) as proxy, Database.open(proxy.url) as database:
        async with database.connection(), database.connection(), database.connection():
            pass
        with pytest.raises(StoreUnavailable, match="25006"):
            await _note(database)
        proxy.lead_to(primary.url("postgres"))
        await _note(database)


@pytest.mark.parametrize(
    ("url", "is_chosen"),
    [
        ("postgresql://me@one/db", False),
        ("postgresql://me@one,two/db", True),
        ("postgresql://me@one:1,two:2/db?target_session_attrs=any", False),
        ("postgresql:///db?host=one,two", True),
        ("postgresql:///db?host=%2Fone%2Ctwo", True),
        ("postgresql://me:a,b@one/db", False),
    ],
)
def test_only_several_hosts_require_a_writable_server(url: str, is_chosen: bool) -> None:
    assert (wanted_server(parse_url(url)) == "read-write") == is_chosen
