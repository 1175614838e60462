"""Tests that a test sees nothing of the earlier tests of its database."""

import asyncpg
import pytest

from tests.databases import EMPTY, Databases, Template
from tests.postgres import PostgresCluster

HARMLESS = [
    "SELECT 1",
    "CREATE SCHEMA a; CREATE TABLE a.b (c text PRIMARY KEY); INSERT INTO a.b VALUES ('d')",
    "CREATE SCHEMA a; CREATE SCHEMA b; CREATE TABLE b.c (d text); CREATE VIEW a.b AS TABLE b.c",
    "BEGIN; CREATE SCHEMA a",
    "SET default_transaction_read_only = on",
]
ROWS = [
    "INSERT INTO ours.emptied VALUES (1); INSERT INTO ours.emptied VALUES (2)",
    "SELECT nextval('ours.numbers')",
    "INSERT INTO ours.emptied VALUES (1); CREATE SCHEMA a; CREATE TABLE a.b (c text)",
]
LASTING = [
    "CREATE TABLE public.a (b text)",
    "CREATE FUNCTION public.a() RETURNS integer RETURN 1",
    "CREATE TYPE public.a AS ENUM ('b')",
    "DROP EXTENSION plpgsql",
    "GRANT CREATE ON SCHEMA public TO PUBLIC",
    "REVOKE SELECT ON pg_class FROM PUBLIC",
    "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC",
    "SELECT lo_create(0)",
    "CREATE PUBLICATION a FOR ALL TABLES",
    "DROP SCHEMA public",
    "ALTER DATABASE {database} SET work_mem = 64",
    "REVOKE ALL ON DATABASE {database} FROM PUBLIC",
    "CREATE SCHEMA a; " + "".join(f"CREATE TABLE a.b{number} ();" for number in range(99)),
]
LASTING_IN_TABLES = [
    "ALTER TABLE ours.emptied ADD b text",
    "ALTER TABLE ours.emptied ADD b text; ALTER TABLE ours.emptied DROP b",
    "TRUNCATE ours.emptied",
    "DROP TABLE ours.emptied",
    "ANALYZE ours.kept",
    "CREATE INDEX ON ours.kept (a)",
    "INSERT INTO ours.kept VALUES (2)",
    "UPDATE ours.kept SET a = 3",
    "DELETE FROM ours.kept",
    "INSERT INTO ours.emptied SELECT generate_series(1, 9999)",
    "DROP SCHEMA ours CASCADE",
    "ALTER SCHEMA ours RENAME TO theirs",
    "CREATE TABLE ours.more ()",
]


async def fill(url: str) -> None:
    await execute(
        url,
        "CREATE SCHEMA ours; CREATE TABLE ours.emptied (a integer); CREATE SEQUENCE ours.numbers;"
        "CREATE TABLE ours.kept (a integer); INSERT INTO ours.kept VALUES (1)",
    )


FILLED = Template("template_of_rows", fill)


@pytest.fixture(scope="module")
def one_at_a_time(postgres_cluster: PostgresCluster) -> Databases:
    """Return databases of which each is taken again at once."""
    return Databases(postgres_cluster, resting=1)


async def execute(url: str, script: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(script)
    finally:
        await connection.close()


def _name(url: str) -> str:
    return url.split("/")[3].split("?")[0]


async def looks(url: str) -> tuple[object, list[str]]:
    """Return the identity of a database, and its objects with their rows."""
    connection = await asyncpg.connect(url)
    try:
        identity = await connection.fetchval(
            "SELECT oid FROM pg_database WHERE datname = current_database()"
        )
        names = await connection.fetch(
            "SELECT oid::regclass::text AS name FROM pg_class "
            "WHERE oid >= 16384 AND relkind IN ('r', 'S') ORDER BY oid"
        )
        rows = [await connection.fetch(f"SELECT * FROM {name}") for (name,) in names]  # noqa: S608 - ours
        return identity, [f"{name}: {found}" for name, found in zip(names, rows, strict=True)]
    finally:
        await connection.close()


async def is_taken_again(databases: Databases, template: Template, script: str) -> bool:
    """Return whether a database is taken again after a test that ran a script on it."""
    async with databases.taken(template) as url:
        before, objects = await looks(url)
        await execute(url, script.replace("{database}", _name(url)))
    async with databases.taken(template) as next_url:
        assert next_url != url
        after, found = await looks(next_url)
    assert found == objects
    return after == before


@pytest.mark.parametrize("script", HARMLESS)
async def test_schemas_of_a_test_are_dropped(one_at_a_time: Databases, script: str) -> None:
    assert await is_taken_again(one_at_a_time, EMPTY, script)


@pytest.mark.parametrize("script", ROWS)
async def test_rows_of_a_test_are_deleted(one_at_a_time: Databases, script: str) -> None:
    assert await is_taken_again(one_at_a_time, FILLED, script)


@pytest.mark.parametrize("script", LASTING)
async def test_a_database_that_was_changed_in_another_way_is_not_taken_again(
    one_at_a_time: Databases, script: str
) -> None:
    assert not await is_taken_again(one_at_a_time, EMPTY, script)


@pytest.mark.parametrize("script", LASTING_IN_TABLES)
async def test_a_database_with_changed_tables_is_not_taken_again(
    one_at_a_time: Databases, script: str
) -> None:
    assert not await is_taken_again(one_at_a_time, FILLED, script)


async def test_sessions_of_a_test_end(one_at_a_time: Databases) -> None:
    async with one_at_a_time.taken() as url:
        left = await asyncpg.connect(url)
        await left.execute("CREATE SCHEMA a; BEGIN; CREATE TABLE a.b ()")
    # Closed by the server's end: a statement says so in one of two ways.
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError)):
        await left.execute("SELECT 1")
    async with one_at_a_time.taken():
        with pytest.raises(asyncpg.InvalidCatalogNameError):
            await asyncpg.connect(url)
