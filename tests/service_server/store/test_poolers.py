"""The service's database behind a pooler: nothing is left in, or expected of, its sessions."""

import asyncio
from collections.abc import AsyncIterator
from importlib import resources

import asyncpg
import pytest
import structlog

from service_server.errors import CannotStart, StoreUnavailable
from service_server.store import database as database_module
from service_server.store import notifications, poolers
from service_server.store.database import Connection, Database
from service_server.store.migrate import migrate
from service_server.store.migration import CONCURRENTLY, load_migrations
from service_server.store.notifications import PIPELINES_CHANNEL, Notifications
from service_server.store.queries import load_queries
from service_server.store.statements import connection_options, learn_types
from tests.engine_server.connectors.postgres.pooler import TransactionPooler
from tests.pgbouncer import Mode, PgBouncer, pgbouncer
from tests.postgres import PostgresCluster
from tests.service_server.store.test_migrate import FIRST, INDEX, SECOND, relations, steps

MODES: list[Mode] = ["session", "transaction"]
LEFT_OVERS = """
SELECT
    ARRAY(
        SELECT name FROM pg_settings
        WHERE source = 'session'
            -- The pooler sets these, and this transaction the others.
            AND name NOT IN (
                'application_name', 'client_encoding', 'synchronous_commit', 'transaction_isolation'
            )
    ) AS settings,
    ARRAY(SELECT name FROM pg_prepared_statements) AS statements,
    ARRAY(SELECT pg_listening_channels()) AS channels,
    ARRAY(SELECT mode FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()) AS locks
"""


@pytest.fixture
async def pooler(postgres_cluster: PostgresCluster, database_url: str) -> AsyncIterator[PgBouncer]:
    """In transaction mode."""
    async with pgbouncer(postgres_cluster, database_url) as one:
        yield one


async def left_overs(connection: Connection) -> list[str]:
    """The settings, statements, channels and locks that a server session holds."""
    [row] = await connection.fetch(LEFT_OVERS)
    return [name for kind in row.values() for name in kind]


async def test_nothing_stays_in_a_session_of_the_pooler(
    postgres_cluster: PostgresCluster, database_url: str
) -> None:
    async with (
        pgbouncer(postgres_cluster, database_url, default_pool_size=2) as pooler,
        Database.open(pooler.url) as database,
    ):
        await migrate(database)
        listening = Notifications(database)
        woken = asyncio.Event()
        listening.listen(PIPELINES_CHANNEL, lambda _: woken.set())
        async with listening.listening(), asyncio.timeout(20):
            await woken.wait()
        async with database.transaction() as one, database.transaction() as other:
            assert await left_overs(one) == await left_overs(other) == []


async def test_statements_of_many_sessions_never_meet(pooler: PgBouncer) -> None:
    async with Database.open(pooler.url) as one, Database.open(pooler.url) as two:

        async def ask(database: Database, number: int) -> None:
            # As many texts as callers, so that the n-th statements of two sessions differ.
            for count in range(50):
                statement = f"SELECT $1::text || '/{number}', ${2}::bigint + {count}"
                async with database.connection() as connection:
                    row = await connection.fetchrow(statement, f"{count}", number)
                assert row is not None
                assert tuple(row) == (f"{count}/{number}", number + count)

        await asyncio.gather(
            *(ask(database, number) for database in (one, two) for number in range(8))
        )


async def test_no_statement_needs_two_transactions(database_url: str) -> None:
    async with TransactionPooler(database_url) as pooler, Database.open(pooler.url) as database:
        await migrate(database)
        async with database.connection() as connection:
            for number in range(20):
                found = await connection.fetchval(
                    "SELECT ($1::text[])[1] || $2", ["a"], f"{number}"
                )
                assert found == f"a{number}"
        assert pooler.changes > 20


async def test_the_types_of_all_statements_are_known_beforehand(database: Database) -> None:
    connection = await asyncpg.connect(database.url, **connection_options("test"))
    try:
        await learn_types(connection)
        asked: list[str] = []
        connection.add_query_logger(lambda record: asked.append(record.query))
        files = [file.name for file in (resources.files("service_server.store") / "sql").iterdir()]
        for name, query in (
            (name, query) for file in files for name, query in load_queries(file).items()
        ):
            await connection.prepare(query)
            assert not asked, name
        assert await connection.fetchval("SELECT count(*) FROM pg_prepared_statements") == 0
    finally:
        await connection.close()


async def test_a_statement_is_described_only_once(database_url: str) -> None:
    connection = await asyncpg.connect(database_url, **connection_options("test"))
    try:
        first = await connection.prepare("SELECT $1::text")
        second = await connection.prepare("SELECT $1::text")
        assert first._state is second._state  # type: ignore[attr-defined]  # of the driver
        assert first.get_name() == ""
    finally:
        await connection.close()


async def test_a_table_that_gets_a_column_ends_one_statement_at_most(database: Database) -> None:
    async def read() -> int:
        async with database.connection() as connection:
            [row] = await connection.fetch("SELECT * FROM things")
            return len(row)

    async with database.connection() as one, database.connection() as two:
        await one.execute("CREATE TABLE things (id) AS SELECT 1")
        for connection in (one, two):
            await connection.fetch("SELECT * FROM things")
        await one.execute("ALTER TABLE things ADD COLUMN name text")
    with pytest.raises(StoreUnavailable):
        await read()
    assert [await read() for _ in range(5)] == [2] * 5


@pytest.mark.parametrize("mode", MODES)
async def test_services_that_start_at_once_migrate_once(
    mode: Mode, postgres_cluster: PostgresCluster, database_url: str
) -> None:
    index = f"{CONCURRENTLY}\n{INDEX}"
    every = steps(FIRST, index, SECOND)
    async with (
        pgbouncer(postgres_cluster, database_url, mode, default_pool_size=12) as pooler,
        Database.open(pooler.url) as first,
        Database.open(pooler.url) as second,
    ):
        await asyncio.gather(migrate(first, every), migrate(second, every), migrate(first, every))
        assert (await relations(first))["by_kind"]
        async with first.connection() as connection:
            assert await connection.fetchval("SELECT count(*) FROM pipesync.migrations") == 3


@pytest.mark.parametrize("mode", MODES)
async def test_all_migrations_are_applied_through_a_pooler(
    mode: Mode, postgres_cluster: PostgresCluster, database_url: str
) -> None:
    async with (
        pgbouncer(postgres_cluster, database_url, mode, default_pool_size=12) as pooler,
        Database.open(pooler.url) as first,
        Database.open(pooler.url) as second,
    ):
        await asyncio.gather(migrate(first), migrate(second))
        async with second.connection() as connection:
            applied = await connection.fetchval("SELECT count(*) FROM pipesync.migrations")
        assert applied == len(load_migrations())


@pytest.mark.parametrize("settings", [{}, {"query_wait_timeout": 1}])
async def test_a_pooler_with_one_session_is_refused_with_the_remedy(
    settings: dict[str, int],
    postgres_cluster: PostgresCluster,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(database_module, "_CONNECT_TIMEOUT", 2.0)
    index = f"{CONCURRENTLY}\n{INDEX}"
    async with (
        pgbouncer(
            postgres_cluster, database_url, "transaction", default_pool_size=1, **settings
        ) as pooler,
        Database.open(pooler.url) as database,
    ):
        with pytest.raises(CannotStart, match=r"two sessions .* raise the pooler's default_pool"):
            await migrate(database, steps(FIRST, index))
        # Without it everything else works.
        await migrate(database, steps(FIRST))


@pytest.mark.parametrize("limit", ["statement_timeout", "transaction_timeout"])
@pytest.mark.parametrize("mode", MODES)
async def test_a_limit_on_statements_is_lifted_in_sessions_that_are_not_shared(
    mode: Mode, limit: str, postgres_cluster: PostgresCluster, database_url: str
) -> None:
    index = f"{CONCURRENTLY}\n{INDEX}"
    async with Database.open(database_url) as database:
        await migrate(database, steps(FIRST))
        async with database.connection() as connection:
            name = await connection.fetchval("SELECT current_database()")
            await connection.execute(f'ALTER DATABASE "{name}" SET {limit} = 400')
        async with (
            pgbouncer(postgres_cluster, database_url, mode, default_pool_size=2) as pooler,
            Database.open(pooler.url) as pooled,
            asyncio.timeout(30),
        ):
            # The index waits for whoever is still writing.
            async with database.transaction() as connection:
                await connection.execute("INSERT INTO pipesync.things VALUES (1, 'a')")
                migrating = asyncio.create_task(migrate(pooled, steps(FIRST, index)))
                done, _ = await asyncio.wait([migrating], timeout=2)
                if mode == "transaction":
                    refused = rf"was cut off .*sets {limit}, .*pooler shares.*database_session_url"
                    with pytest.raises(CannotStart, match=refused):
                        await migrating
                else:
                    assert not done
            if mode == "session":
                await migrating
                assert (await relations(pooled))["by_kind"]
            # The limit is back in both sessions.
            async with pooled.connection() as one, pooled.connection() as other:
                for session in (one, other):
                    assert await session.fetchval(f"SHOW {limit}") == "400ms"
        # Past the pooler, the index that was cut off is built.
        await migrate(database, steps(FIRST, index))
        assert (await relations(database))["by_kind"]


async def test_a_pooler_in_statement_mode_is_refused_with_the_remedy(
    postgres_cluster: PostgresCluster, database_url: str
) -> None:
    async with pgbouncer(postgres_cluster, database_url, "statement") as pooler:
        with pytest.raises(CannotStart, match=r"statement pooling mode: set .* pool_mode"):
            async with Database.open(pooler.url):
                pass


async def test_a_setting_that_the_pooler_refuses_is_named_with_the_remedy(
    pooler: PgBouncer,
) -> None:
    with pytest.raises(CannotStart, match=r"parameter: options: take it out of the URL"):
        async with Database.open(f"{pooler.url}&options=-c%20work_mem%3D8MB"):
            pass


@pytest.mark.parametrize(("mode", "shared"), [("session", False), ("transaction", True)])
@pytest.mark.parametrize("size", [2, 5])
async def test_a_shared_session_is_told_from_one_that_is_kept(
    mode: Mode, shared: bool, size: int, postgres_cluster: PostgresCluster, database_url: str
) -> None:
    async with (
        pgbouncer(postgres_cluster, database_url, mode, default_pool_size=size) as pooler,
        Database.open(pooler.url, max_connections=1) as database,
    ):
        connection = await asyncpg.connect(pooler.url, **connection_options("test"))
        try:
            for _ in range(10):
                assert await poolers.is_shared(connection, database) is shared
        finally:
            await connection.close()


async def test_the_only_session_of_a_pooler_is_found_to_be_shared(
    postgres_cluster: PostgresCluster, database_url: str
) -> None:
    async with (
        pgbouncer(postgres_cluster, database_url, default_pool_size=1) as pooler,
        Database.open(pooler.url) as database,
        asyncio.timeout(20),
    ):
        connection = await asyncpg.connect(pooler.url, **connection_options("test"))
        try:
            assert await poolers.is_shared(connection, database)
        finally:
            await connection.close()


async def test_a_session_that_changes_behind_the_same_address_is_found_to_be_shared(
    database_url: str,
) -> None:
    async with TransactionPooler(database_url) as pooler, Database.open(database_url) as database:
        connection = await asyncpg.connect(pooler.url, **connection_options("test"))
        try:
            assert await poolers.is_shared(connection, database)
        finally:
            await connection.close()


class Heard:
    """A listener that counts."""

    def __init__(self) -> None:
        self.payloads: asyncio.Queue[str | None] = asyncio.Queue()

    def __call__(self, payload: str | None) -> None:
        self.payloads.put_nowait(payload)

    async def until(self, wanted: str | None, times: int = 1) -> None:
        async with asyncio.timeout(30):
            while times:
                times -= await self.payloads.get() == wanted


async def test_where_no_notification_arrives_listeners_are_called_again_and_again(
    pooler: PgBouncer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifications, "_POLL_INTERVAL", 0.01)
    monkeypatch.setattr(notifications, "_POOLER_INTERVAL", 0.01)
    heard = Heard()
    with structlog.testing.capture_logs() as logs:
        async with Database.open(pooler.url) as database:
            one = Notifications(database)
            one.listen(PIPELINES_CHANNEL, heard)
            async with one.listening():
                await heard.until(None, times=100)
    [warning] = [entry for entry in logs if entry["event"] == "notifications_unavailable"]
    assert "PIPESYNC_DATABASE_SESSION_URL" in warning["remedy"]
    assert not [entry for entry in logs if entry["event"] == "listening_to_database"]


@pytest.mark.parametrize("way", ["direct", "session"])
async def test_past_the_pooler_notifications_arrive(
    way: str, pooler: PgBouncer, postgres_cluster: PostgresCluster, database_url: str
) -> None:
    heard = Heard()
    async with (
        Database.open(pooler.url) as database,
        pgbouncer(postgres_cluster, database_url, "session") as in_session_mode,
    ):
        one = Notifications(database, database_url if way == "direct" else in_session_mode.url)
        one.listen(PIPELINES_CHANNEL, heard)
        async with one.listening():
            await heard.until(None)
            async with database.connection() as connection:
                await connection.execute("SELECT pg_notify($1, 'first')", PIPELINES_CHANNEL)
            await heard.until("first")


async def test_a_listener_is_called_while_its_pooler_is_down_and_hears_again_afterwards(
    postgres_cluster: PostgresCluster, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifications, "_POLL_INTERVAL", 0.01)
    heard = Heard()
    async with (
        Database.open(database_url) as database,
        pgbouncer(postgres_cluster, database_url, "session") as in_session_mode,
    ):
        one = Notifications(database, in_session_mode.url)
        one.listen(PIPELINES_CHANNEL, heard)
        async with one.listening():
            await heard.until(None)
            await in_session_mode.kill()
            await heard.until(None, times=20)
            await in_session_mode.start()
            async with asyncio.timeout(30):
                while not one.hears:
                    await heard.payloads.get()
            async with database.connection() as connection:
                await connection.execute("SELECT pg_notify($1, 'first')", PIPELINES_CHANNEL)
            await heard.until("first")


async def test_a_session_url_of_another_database_is_refused(
    pooler: PgBouncer, postgres_cluster: PostgresCluster
) -> None:
    other = postgres_cluster.url("postgres")
    async with Database.open(pooler.url) as database, Database.open(other) as direct:
        with pytest.raises(CannotStart, match="lead to different databases"):
            await poolers.require_sessions(direct, database)


async def test_a_session_url_through_a_pooler_that_shares_is_refused(pooler: PgBouncer) -> None:
    async with Database.open(pooler.url) as database, Database.open(pooler.url) as direct:
        with pytest.raises(CannotStart, match="give it the address of Postgres itself"):
            await poolers.require_sessions(direct, database)
