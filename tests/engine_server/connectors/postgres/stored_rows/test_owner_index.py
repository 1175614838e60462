"""The index by owner is created with the table or by setup, never by an event."""

import asyncio

import asyncpg
import pytest

from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.destination import PostgresDestination
from engine_server.connectors.postgres.schema.tables import table_of
from engine_server.connectors.postgres.stored_rows import queries
from engine_server.connectors.protocols import SelectedStream
from tests.engine_server.connectors.postgres.builders import (
    customer,
    logs,
    records,
    stream,
    write,
)

OWNERS = [f"sub_{number}" for number in range(3)]


def items(owner_field: str = "subscription") -> SelectedStream:
    selected = stream("items")
    selected.stream.owner_field = owner_field
    return selected


async def set_up(config: PostgresConfig, selected: SelectedStream) -> list[str]:
    return await logs(PostgresDestination().setup(config, [selected]))


async def indexes(database: asyncpg.Connection) -> dict[str, bool]:
    """The indexes besides the primary key, and whether they are valid."""
    rows = await database.fetch(
        "SELECT relname, indisvalid FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid "
        "WHERE indrelid = 'stripe.items'::regclass AND NOT indisprimary"
    )
    return {row["relname"]: row["indisvalid"] for row in rows}


async def until_waiting(database: asyncpg.Connection) -> None:
    """Wait until another session that creates an index waits for a lock."""
    async with asyncio.timeout(20):
        while not await database.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
            "AND query LIKE 'CREATE INDEX CONCURRENTLY%' AND wait_event_type = 'Lock'"
        ):
            pass


def name_of(config: PostgresConfig) -> str:
    table = table_of(items(), config.schema_name)
    return queries.owner_index(table, "subscription").name


@pytest.fixture
async def large(config: PostgresConfig, database: asyncpg.Connection) -> None:
    """A table of an older version, large enough for an index scan."""
    await set_up(config, items(owner_field=""))
    await database.execute(
        """
        INSERT INTO stripe.items (id, _account_id, _raw_data, _last_synced_at)
        SELECT 'si_' || n, 'acct_1',
            jsonb_build_object('id', 'si_' || n, 'subscription', 'sub_' || n / 3,
                'pad', repeat('x', 200)),
            now()
        FROM generate_series(0, 19999) AS n
        """
    )


@pytest.mark.parametrize("by", ["setup", "write"])
async def test_a_new_table_has_it_from_the_start(
    config: PostgresConfig, database: asyncpg.Connection, by: str
) -> None:
    if by == "setup":
        await set_up(config, items())
    else:
        await write(config, [items()], [records("items", customer(1, subscription="sub_0"))])
    assert await indexes(database) == {name_of(config): True}
    assert await set_up(config, items()) == []


@pytest.mark.usefixtures("large")
async def test_a_table_that_exists_gets_it_by_the_next_setup_while_others_write(
    config: PostgresConfig, database: asyncpg.Connection, database_url: str
) -> None:
    other = await asyncpg.connect(database_url)
    try:
        async with other.transaction():
            # An open transaction with writes prevents an exclusive lock on the table.
            await other.execute("UPDATE stripe.items SET _account_id = 'acct_1' WHERE id = 'si_1'")
            making = asyncio.create_task(set_up(config, items()))
            await until_waiting(database)
            # It waits, and no other session waits for it.
            await database.execute("DELETE FROM stripe.items WHERE id = 'si_2'")
        said = await making
    finally:
        await other.close()
    assert said == [f'created index "{name_of(config)}" of table "stripe"."items"']
    assert await indexes(database) == {name_of(config): True}
    assert await set_up(config, items()) == []
    query = queries.belonging_to(
        table_of(items(), config.schema_name), "acct_1", "subscription", OWNERS
    )
    plan = await database.fetch(f"EXPLAIN {query.statement}", *query.arguments)
    assert f"Index Scan using {name_of(config)}" in str(plan)


@pytest.mark.usefixtures("large")
async def test_an_interrupted_index_is_created_anew(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    index = queries.owner_index(table_of(items(), config.schema_name), "subscription")
    await database.execute(index.statement)
    await database.execute(
        "UPDATE pg_index SET indisvalid = false "
        "WHERE indrelid = 'stripe.items'::regclass AND NOT indisprimary"
    )
    assert await indexes(database) == {index.name: False}
    await set_up(config, items())
    assert await indexes(database) == {index.name: True}


@pytest.mark.usefixtures("large")
async def test_events_are_answered_without_it_and_make_none(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    async with PostgresDestination().stored_rows(config, [items()]) as stored_rows:
        found = await stored_rows.belonging_to_at_once("items", "subscription", OWNERS)
    assert len(found) == 9
    assert await indexes(database) == {}
    await write(config, [items()], [records("items", customer(1, subscription="sub_0"))])
    assert await indexes(database) == {}


@pytest.mark.usefixtures("large")
async def test_setup_reports_the_remedy_where_it_may_not_create_the_index(
    config: PostgresConfig, database: asyncpg.Connection, database_url: str
) -> None:
    role = f"writer_{await database.fetchval('SELECT current_database()')}"[:60]
    await database.execute(
        f"CREATE ROLE {role} LOGIN; GRANT ALL ON SCHEMA stripe TO {role}; "
        f"GRANT ALL ON ALL TABLES IN SCHEMA stripe TO {role}"
    )
    try:
        writer = {"url": database_url.replace("postgres@", f"{role}@")}
        [said] = await set_up(PostgresConfig.model_validate(writer), items())
    finally:
        await database.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")
    assert said.startswith('table "stripe"."items" has no index by "subscription": ')
    assert "Its owner may say: CREATE INDEX CONCURRENTLY IF NOT EXISTS" in said
