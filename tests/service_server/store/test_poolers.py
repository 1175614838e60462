"""A pooler before the service's database, whose sessions keep no state of the service."""

import asyncio
from importlib import resources

import asyncpg
import pytest

from service_server.errors import CannotStart, StoreUnavailable
from service_server.store import database as database_module
from service_server.store import poolers
from service_server.store.database import Connection, Database
from service_server.store.migrate import migrate
from service_server.store.migration import CONCURRENTLY, load_migrations
from service_server.store.notifications import PIPELINES_CHANNEL, Notifications
from service_server.store.queries import load_queries
from service_server.store.statements import connection_options, learn_types
from tests.engine_server.connectors.postgres.pooler import TransactionPooler
from tests.pgbouncer import Mode, PgBouncer, leave_read_only_sessions, pgbouncer
from tests.postgres import PostgresCluster
from tests.service_server.store.test_migrate import FIRST, INDEX, SECOND, relations, steps

MODES: list[Mode] = ["session", "transaction"]
LEFTOVERS = """
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


async def leftovers(connection: Connection) -> list[str]:
    """Return the settings, statements, channels and locks that a server session holds."""
    [row] = await connection.fetch(LEFTOVERS)
    return [name for kind in row.values() for name in kind]


async def test_no_state_stays_in_a_session_of_the_pooler(
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
            assert await leftovers(one) == await leftovers(other) == []


async def test_statements_of_many_clients_are_not_mixed_up(pooler: PgBouncer) -> None:
    async with Database.open(pooler.url) as one, Database.open(pooler.url) as two:

        async def ask(database: Database, number: int) -> None:
            # Each caller has its own statements, so that the n-th ones of two sessions differ.
            for count in range(50):
                statement = f"SELECT $1::text || '/{number}', ${2}::bigint + {count}"
                async with database.connection() as connection:
                    row = await connection.fetchrow(statement, f"{count}", number)
                assert row is not None
                assert tuple(row) == (f"{count}/{number}", number + count)

        await asyncio.gather(
            *(ask(database, number) for database in (one, two) for number in range(8))
        )


@pytest.mark.parametrize("max_connections", [1, 10])
@pytest.mark.parametrize("mode", MODES)
async def test_read_only_sessions_that_a_pooler_kept_fail_one_call(
    mode: Mode, max_connections: int, postgres_cluster: PostgresCluster, database_url: str
) -> None:
    async def write(database: Database) -> None:
        # A single statement, since the pooler itself ends the session of a broken transaction.
        async with database.connection() as connection:
            await connection.execute("CREATE TABLE IF NOT EXISTS written ()")

    async with pgbouncer(postgres_cluster, database_url, mode, default_pool_size=9) as pooler:
        await leave_read_only_sessions(pooler, database_url, count=9)
        async with Database.open(pooler.url, max_connections=max_connections) as database:
            with pytest.raises(StoreUnavailable, match="25006"):
                await write(database)
            for _ in range(10):
                await write(database)


async def test_a_session_parameter_from_before_the_session_ended_costs_no_connection(
    pooler: PgBouncer, database_url: str
) -> None:
    async def connection_id(database: Database) -> int:
        async with database.connection() as connection:
            return connection.get_server_pid()

    await leave_read_only_sessions(pooler, database_url)
    async with Database.open(pooler.url, max_connections=1) as database:
        first = await connection_id(database)
        second = await connection_id(database)
        assert await connection_id(database) == second != first


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


async def test_the_types_of_all_statements_are_learned_beforehand(database: Database) -> None:
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
        assert first._state is second._state  # type: ignore[attr-defined]  # internal to the driver
        assert first.get_name() == ""
    finally:
        await connection.close()


async def test_a_new_column_of_a_table_fails_at_most_one_statement(database: Database) -> None:
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
        # Everything else works with one session.
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
            # The build of the index waits for open transactions.
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
            # Both sessions have the limit again.
            async with pooled.connection() as one, pooled.connection() as other:
                for session in (one, other):
                    assert await session.fetchval(f"SHOW {limit}") == "400ms"
        # Without the pooler, the index is built.
        await migrate(database, steps(FIRST, index))
        assert (await relations(database))["by_kind"]


async def test_a_pooler_in_statement_mode_is_refused_with_the_remedy(
    postgres_cluster: PostgresCluster, database_url: str
) -> None:
    async with pgbouncer(postgres_cluster, database_url, "statement") as pooler:
        with pytest.raises(CannotStart, match=r"statement pooling mode: set .* pool_mode"):
            async with Database.open(pooler.url):
                pass


async def test_a_setting_that_a_pooler_refuses_is_named_with_the_remedy(
    pooler: PgBouncer,
) -> None:
    with pytest.raises(CannotStart, match=r"parameter: options: take it out of the URL"):
        async with Database.open(f"{pooler.url}&options=-c%20work_mem%3D8MB"):
            pass


@pytest.mark.parametrize(("mode", "shared"), [("session", False), ("transaction", True)])
@pytest.mark.parametrize("size", [2, 5])
async def test_shared_and_dedicated_sessions_are_distinguished(
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


async def test_a_pooler_s_only_session_is_detected_as_shared(
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


async def test_a_session_that_changes_behind_one_address_is_detected_as_shared(
    database_url: str,
) -> None:
    async with TransactionPooler(database_url) as pooler, Database.open(database_url) as database:
        connection = await asyncpg.connect(pooler.url, **connection_options("test"))
        try:
            assert await poolers.is_shared(connection, database)
        finally:
            await connection.close()


async def test_a_session_url_to_another_database_is_refused(
    pooler: PgBouncer, postgres_cluster: PostgresCluster
) -> None:
    other = postgres_cluster.url("postgres")
    async with Database.open(pooler.url) as database, Database.open(other) as direct:
        with pytest.raises(CannotStart, match="lead to different databases"):
            await poolers.require_sessions(direct, database)


async def test_a_session_url_through_a_sharing_pooler_is_refused(pooler: PgBouncer) -> None:
    async with Database.open(pooler.url) as database, Database.open(pooler.url) as direct:
        with pytest.raises(CannotStart, match="give it the address of Postgres itself"):
            await poolers.require_sessions(direct, database)
