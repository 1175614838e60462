"""Migrations of full tables, which they lock only for a moment."""

from collections.abc import Mapping

import asyncpg

from service_server.store.database import Database
from service_server.store.migrate import migrate
from service_server.store.migration import CONCURRENTLY, Migration, load_migrations
from tests.service_server.store.full_tables import fill

# A table with at most this many rows is read or rewritten in a moment.
SMALL = 10_000
READ = """
SELECT relname, seq_tup_read + coalesce(idx_tup_fetch, 0) AS rows,
    pg_relation_filenode(relid) AS file
FROM pg_stat_user_tables
WHERE schemaname = 'pipesync'
"""


async def use(database: Database) -> Mapping[str, asyncpg.Record]:
    """Return the number of rows read of each table so far, and its current file."""
    async with database.connection() as connection, database.connection() as other:
        await other.execute("SELECT pg_stat_force_next_flush()")
        await connection.execute("SELECT pg_stat_force_next_flush()")
        return {row["relname"]: row for row in await connection.fetch(READ)}


async def held_up(database: Database, migrations: list[Migration]) -> set[str]:
    """Return the tables that the last migration reads or rewrites as a whole under a lock."""
    before = await use(database)
    await migrate(database, migrations)
    after = await use(database)
    if migrations[-1].is_concurrent:
        return set()
    return {
        table
        for table, was in before.items()
        if after[table]["rows"] - was["rows"] > SMALL or after[table]["file"] != was["file"]
    }


async def test_no_migration_reads_or_rewrites_a_full_table_in_its_transaction(
    database_url: str,
) -> None:
    migrations = load_migrations()
    async with Database.open(database_url, max_connections=2) as database:
        await migrate(database, migrations[:1])
        await fill(database_url, rows=2 * SMALL)
        for count in range(2, len(migrations) + 1):
            assert not await held_up(database, migrations[:count]), migrations[count - 1]


async def test_a_migration_that_does_is_detected(database_url: str) -> None:
    bad = [
        "ALTER TABLE pipesync.runs ALTER COLUMN failure_message SET NOT NULL",
        "ALTER TABLE pipesync.runs ADD CHECK (status < 9)",
        "ALTER TABLE pipesync.runs ALTER COLUMN status TYPE integer",
        "ALTER TABLE pipesync.runs ADD COLUMN chance float8 DEFAULT random()",
        "CREATE INDEX late ON pipesync.runs (status)",
        "UPDATE pipesync.runs SET status = 1",
    ]
    good = [
        "ALTER TABLE pipesync.runs ADD COLUMN added text NOT NULL DEFAULT ''",
        "ALTER TABLE pipesync.runs ADD CONSTRAINT small CHECK (status < 9) NOT VALID",
        f"{CONCURRENTLY}\nCREATE INDEX CONCURRENTLY IF NOT EXISTS x ON pipesync.runs (status)",
        "CREATE TABLE pipesync.others (id integer PRIMARY KEY)",
    ]
    migrations = load_migrations()[:1]
    async with Database.open(database_url, max_connections=2) as database:
        await migrate(database, migrations)
        await fill(database_url, rows=2 * SMALL)
        async with database.connection() as connection:
            await connection.execute(
                "ALTER TABLE pipesync.runs ALTER COLUMN failure_message DROP NOT NULL"
            )
        for number, sql in enumerate([*good, *bad], start=2):
            migrations.append(Migration(number=number, name=f"step_{number}", statements=sql))
            assert await held_up(database, migrations) == (set() if sql in good else {"runs"}), sql
