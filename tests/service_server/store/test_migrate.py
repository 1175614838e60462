"""Migration of tables that other services are using."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from service_server.errors import CannotStart
from service_server.store.database import Database
from service_server.store.migrate import migrate
from service_server.store.migration import CONCURRENTLY, Migration, load_migrations

FIRST = "CREATE TABLE pipesync.things (id integer PRIMARY KEY, kind text)"
INDEX = "CREATE INDEX CONCURRENTLY IF NOT EXISTS by_kind ON pipesync.things (kind)"
SECOND = "ALTER TABLE pipesync.things ADD COLUMN size integer"


def steps(*statements: str) -> list[Migration]:
    return [
        Migration(number=number, name=f"step_{number}", statements=sql)
        for number, sql in enumerate(statements, start=1)
    ]


@pytest.fixture
async def empty(database_url: str) -> AsyncIterator[Database]:
    async with Database.open(database_url) as database:
        yield database


async def _applied(database: Database) -> list[int]:
    async with database.connection() as connection:
        rows = await connection.fetch("SELECT number FROM pipesync.migrations ORDER BY number")
    return [row["number"] for row in rows]


async def relations(database: Database) -> dict[str, bool]:
    """Return the relations of the schema by name, and whether each is valid."""
    async with database.connection() as connection:
        rows = await connection.fetch(
            "SELECT relname, coalesce(indisvalid, true) AS usable FROM pg_class"
            " LEFT JOIN pg_index ON indexrelid = pg_class.oid"
            " WHERE relnamespace = 'pipesync'::regnamespace"
        )
    return {row["relname"]: row["usable"] for row in rows}


async def columns(database: Database) -> list[str]:
    """Return the columns of the table ``things``."""
    async with database.connection() as connection:
        rows = await connection.fetch(
            "SELECT attname FROM pg_attribute WHERE attrelid = 'pipesync.things'::regclass"
            " AND attnum > 0 ORDER BY attnum"
        )
    return [row["attname"] for row in rows]


async def until_a_session_waits(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    async with asyncio.timeout(20):
        while not await connection.fetchval(  # noqa: ASYNC110 - Postgres has no event for it
            "SELECT true FROM pg_locks WHERE NOT granted AND database ="
            " (SELECT oid FROM pg_database WHERE datname = current_database())"
            " UNION SELECT true FROM pg_stat_activity WHERE wait_event = 'virtualxid'"
            " AND datname = current_database()"
        ):
            await asyncio.sleep(0.01)


@asynccontextmanager
async def reading(url: str, table: str) -> AsyncIterator[None]:
    """Hold a transaction open that has read a table."""
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            await connection.fetch(f"SELECT * FROM {table}")  # noqa: S608 - the tests' own name
            yield
    finally:
        await connection.close()


async def test_migrations_are_numbered_without_a_gap() -> None:
    numbers = [migration.number for migration in load_migrations()]
    assert numbers == list(range(1, len(numbers) + 1))


async def test_migrating_twice_changes_nothing(database: Database) -> None:
    before = await _applied(database)
    await migrate(database)
    assert await _applied(database) == before == [one.number for one in load_migrations()]


async def test_services_that_start_at_once_migrate_once(database_url: str) -> None:
    async with Database.open(database_url) as first, Database.open(database_url) as second:
        await asyncio.gather(migrate(first), migrate(second), migrate(first))
        assert await _applied(first) == [one.number for one in load_migrations()]


async def test_services_that_start_at_once_build_an_index_once(database_url: str) -> None:
    index = f"{CONCURRENTLY}\n{INDEX}"
    async with Database.open(database_url) as first, Database.open(database_url) as second:
        await migrate(first, steps(FIRST))
        every = steps(FIRST, index, SECOND)
        await asyncio.gather(migrate(first, every), migrate(second, every), migrate(first, every))
        assert await _applied(first) == [1, 2, 3]
        assert (await relations(first))["by_kind"]


async def test_a_skipped_migration_is_applied_later(empty: Database) -> None:
    first, second, third = steps(FIRST, SECOND, "CREATE TABLE pipesync.others ()")
    await migrate(empty, [first, third])
    await migrate(empty, [first, second, third])
    assert await _applied(empty) == [1, 2, 3]


async def test_a_failed_migration_leaves_the_database_unchanged_and_is_named(
    empty: Database,
) -> None:
    broken = f"{SECOND}; {FIRST}"
    await migrate(empty, steps(FIRST))
    before = await relations(empty)
    with pytest.raises(CannotStart, match=r"0002_step_2 failed.*unchanged.*already exists"):
        await migrate(empty, steps(FIRST, broken))
    assert await _applied(empty) == [1]
    assert await relations(empty) == before
    assert await columns(empty) == ["id", "kind"]


async def test_an_index_that_cannot_be_built_leaves_nothing_behind(empty: Database) -> None:
    unique = (
        f"{CONCURRENTLY}\nCREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS by_kind"
        " ON pipesync.things (kind)"
    )
    await migrate(empty, steps(FIRST))
    async with empty.connection() as connection:
        await connection.execute("INSERT INTO pipesync.things VALUES (1, 'a'), (2, 'a')")
    before = await relations(empty)
    with pytest.raises(CannotStart, match=r"0002_step_2 failed.*unchanged.*unique"):
        await migrate(empty, steps(FIRST, unique))
    assert await relations(empty) == before
    async with empty.connection() as connection:
        await connection.execute("DELETE FROM pipesync.things WHERE id = 2")
    await migrate(empty, steps(FIRST, unique))
    assert await _applied(empty) == [1, 2]


async def test_an_index_whose_build_was_killed_is_built_again(
    empty: Database, database_url: str
) -> None:
    await migrate(empty, steps(FIRST))
    killed = await asyncpg.connect(database_url)
    # The build of the index waits for open transactions.
    async with empty.transaction() as connection, asyncio.timeout(30):
        await connection.execute("INSERT INTO pipesync.things VALUES (1, 'a')")
        building = asyncio.create_task(killed.execute(INDEX))
        observer = await asyncpg.connect(database_url)
        await until_a_session_waits(observer)
        await observer.execute("SELECT pg_terminate_backend($1)", killed.get_server_pid())
        with pytest.raises((asyncpg.PostgresError, ConnectionError)):
            await building
        await observer.close()
    assert (await relations(empty))["by_kind"] is False
    await migrate(empty, steps(FIRST, f"{CONCURRENTLY}\n{INDEX}"))
    assert (await relations(empty))["by_kind"] is True


async def test_a_migration_that_waits_for_a_lock_does_not_block_others_for_long(
    empty: Database, database_url: str
) -> None:
    await migrate(empty, steps(FIRST))
    async with asyncio.timeout(30):
        async with reading(database_url, "pipesync.things"):
            migrating = asyncio.create_task(migrate(empty, steps(FIRST, SECOND)))
            other = await asyncpg.connect(database_url)
            await until_a_session_waits(other)
            # This waits behind the migration, which times out before the reader ends.
            await other.execute("INSERT INTO pipesync.things VALUES (1, 'a')")
            await other.close()
            assert not migrating.done()
        await migrating
    assert await _applied(empty) == [1, 2]


async def test_a_lock_that_is_never_released_is_an_error_that_names_the_migration(
    empty: Database, database_url: str
) -> None:
    await migrate(empty, steps(FIRST))
    async with reading(database_url, "pipesync.things"):
        with pytest.raises(CannotStart, match=r"0002_step_2 failed.*held a lock"):
            await migrate(empty, steps(FIRST, SECOND), timeout=0)
    assert await _applied(empty) == [1]


def test_a_concurrent_index_must_tolerate_an_existing_one() -> None:
    with pytest.raises(ValueError, match="0001_step_1 lacks IF NOT EXISTS"):
        steps(f"{CONCURRENTLY}\nCREATE INDEX CONCURRENTLY by_kind ON pipesync.things (kind)")


async def test_a_database_newer_than_the_program_is_refused(empty: Database) -> None:
    await migrate(empty, steps(FIRST, SECOND))
    with pytest.raises(CannotStart, match=r"does not \(0002_step_2\): run that version"):
        await migrate(empty, steps(FIRST))


async def test_a_migration_under_another_name_is_refused(empty: Database) -> None:
    await migrate(empty, steps(FIRST))
    other = Migration(number=1, name="other", statements=FIRST)
    with pytest.raises(CannotStart, match="0001_step_1"):
        await migrate(empty, [other])


@pytest.mark.parametrize("limit", ["statement_timeout", "transaction_timeout"])
async def test_a_migration_may_exceed_the_time_limits_of_the_database(
    empty: Database, database_url: str, limit: str
) -> None:
    async with empty.connection() as connection:
        name = await connection.fetchval("SELECT current_database()")
        await connection.execute(f'ALTER DATABASE "{name}" SET {limit} = 400')
    async with Database.open(database_url) as limited:
        await migrate(limited, steps(f"SELECT pg_sleep(0.6); {FIRST}"))
        assert await _applied(limited) == [1]


@pytest.mark.parametrize("limit", ["statement_timeout", "transaction_timeout", "lock_timeout"])
async def test_an_index_may_exceed_the_time_limits_of_the_database(
    empty: Database, database_url: str, limit: str
) -> None:
    await migrate(empty, steps(FIRST))
    async with empty.connection() as connection:
        name = await connection.fetchval("SELECT current_database()")
        await connection.execute(f'ALTER DATABASE "{name}" SET {limit} = 400')
    observer = await asyncpg.connect(database_url)
    async with Database.open(database_url, max_connections=2) as limited, asyncio.timeout(30):
        # The build of the index waits for open transactions.
        async with empty.transaction() as connection:
            await connection.execute("INSERT INTO pipesync.things VALUES (1, 'a')")
            index = f"{CONCURRENTLY}\n{INDEX}"
            migrating = asyncio.create_task(migrate(limited, steps(FIRST, index)))
            await until_a_session_waits(observer)
            # This exceeds the limit.
            done, _ = await asyncio.wait([migrating], timeout=0.6)
            assert not done
        await migrating
        assert (await relations(limited))["by_kind"] is True
        # Both sessions have the limit again.
        async with limited.connection() as one, limited.connection() as other:
            for session in (one, other):
                assert await session.fetchval(f"SHOW {limit}") == "400ms"
    await observer.close()


async def test_an_up_to_date_database_is_only_read(database: Database, database_url: str) -> None:
    async with database.connection() as connection:
        name = await connection.fetchval("SELECT current_database()")
        await connection.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    async with Database.open(database_url) as read_only:
        await migrate(read_only)
