"""Results of queries of stored rows, and the indexes that they use."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

import asyncpg
import pytest
from structlog.testing import capture_logs

from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.destination import PostgresDestination
from engine_server.connectors.postgres.schema.tables import Table, table_of
from engine_server.connectors.postgres.stored_rows import queries
from engine_server.connectors.postgres.stored_rows.stored_rows import PostgresStoredRows
from engine_server.connectors.protocols import SelectedStream
from engine_server.errors import ConnectionFailed, ConnectorError
from tests.engine_server.connectors.postgres.builders import customer, records, stream, write
from tests.engine_server.connectors.postgres.schemas import set_up

FIELDS = {
    "id": {"type": "string"},
    "created": {"type": "integer"},
    "deleted": {"type": "boolean"},
    "subscription": {"type": "string"},
}
BEGIN = 1_700_000_000


def customers(name: str = "customers", **fields: Any) -> SelectedStream:
    """A stream whose records have a creation time."""
    described = stream(name, properties=FIELDS, **fields)
    described.stream.time_range_field = "created"
    return described


async def held(
    stored_rows: PostgresStoredRows,
    gte: int | None = None,
    lt: int | None = None,
    *,
    name: str = "customers",
    account_id: str = "",
) -> list[str]:
    async with aclosing(stored_rows.created_in(name, gte, lt, account_id=account_id)) as found:
        return [object_id async for some in found for object_id in some]


async def fill(
    database: asyncpg.Connection, config: PostgresConfig, selected: SelectedStream, count: int
) -> Table:
    """Create a table of ``count`` rows, one for each second, with three rows for each owner."""
    await set_up(config, selected)
    table = table_of(selected, config.schema_name)
    await database.execute(
        f"""
        INSERT INTO {table.quoted} (id, _account_id, _raw_data, _updated_at, _last_synced_at)
        SELECT 'cus_' || n, 'acct_1', jsonb_build_object(
            'id', 'cus_' || n, 'created', {BEGIN} + n, 'subscription', 'sub_' || n / 3,
            'pad', repeat(md5(n::text), 10)
        ), now(), now()
        FROM generate_series(0, {count - 1}) AS n
        """  # noqa: S608 - names of our own
    )
    return table


async def plan(database: asyncpg.Connection, query: queries.Query) -> str:
    rows = await database.fetch(f"EXPLAIN {query.statement}", *query.arguments)
    return "\n".join(row[0] for row in rows)


async def indexes(database: asyncpg.Connection) -> list[str]:
    rows = await database.fetch(
        "SELECT indexname FROM pg_indexes WHERE indexdef LIKE '%_raw_data%'"
    )
    return [row["indexname"] for row in rows]


async def test_it_finds_records_created_in_a_range(config: PostgresConfig) -> None:
    selected = customers()
    made = [customer(number, created=BEGIN + number) for number in range(5)]
    await write(config, [selected], [records("customers", *made, customer(9))])
    async with PostgresDestination().stored_rows(config, [selected]) as stored_rows:
        assert await held(stored_rows, BEGIN + 1, BEGIN + 3) == ["cus_2", "cus_1"]
        assert await held(stored_rows, BEGIN + 3) == ["cus_4", "cus_3"]
        assert await held(stored_rows, None, BEGIN + 1) == ["cus_0"]
        assert await held(stored_rows, BEGIN + 2, BEGIN + 2) == []
        # A record without a time counts only in queries without bounds.
        assert await held(stored_rows) == ["cus_0", "cus_1", "cus_2", "cus_3", "cus_4", "cus_9"]


@pytest.mark.parametrize("columns", ["stored", "virtual", "none"])
async def test_it_omits_deleted_records_in_every_column_mode(
    config: PostgresConfig, columns: str
) -> None:
    config = config.model_copy(update={"columns": columns})
    selected = customers()
    made = [customer(number, created=BEGIN) for number in range(3)]
    gone = customer(1, at=2, deleted=True)
    await write(config, [selected], [records("customers", *made), records("customers", gone)])
    async with PostgresDestination().stored_rows(config, [selected]) as stored_rows:
        assert await held(stored_rows, BEGIN) == ["cus_2", "cus_0"]
        assert await held(stored_rows) == ["cus_0", "cus_2"]


async def test_it_finds_records_of_one_account_only(config: PostgresConfig) -> None:
    selected, unknown = customers(), customers(account_id="")
    other = {**customer(2, created=BEGIN), "_account_id": "acct_2"}
    await write(config, [selected], [records("customers", customer(1, created=BEGIN), other)])
    async with PostgresDestination().stored_rows(config, [selected]) as stored_rows:
        assert await held(stored_rows, BEGIN) == ["cus_1"]
        assert await held(stored_rows, BEGIN, account_id="acct_2") == ["cus_2"]
    async with PostgresDestination().stored_rows(config, [unknown]) as stored_rows:
        assert await held(stored_rows, BEGIN) == ["cus_2", "cus_1"]
        assert await held(stored_rows, account_id="acct_1") == ["cus_1"]


async def test_it_finds_records_by_owner(config: PostgresConfig) -> None:
    selected = customers()
    made = [customer(number, subscription=f"sub_{number // 2}") for number in range(6)]
    other = {**customer(7, subscription="sub_0"), "_account_id": "acct_2"}
    gone = customer(0, at=2, deleted=True)
    await write(config, [selected], [records("customers", *made, other)])
    await write(config, [selected], [records("customers", gone)])
    async with PostgresDestination().stored_rows(config, [selected]) as stored_rows:
        found = await stored_rows.belonging_to("customers", "subscription", ["sub_0", "sub_2", "?"])
    assert sorted(found) == [("sub_0", "cus_1"), ("sub_2", "cus_4"), ("sub_2", "cus_5")]


async def test_a_long_result_has_pages_without_gaps_or_duplicates(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    selected = customers()
    await fill(database, config, selected, 2 * queries.PAGE_ROWS + 1)
    async with PostgresDestination().stored_rows(config, [selected]) as stored_rows:
        parts = [list(some) async for some in stored_rows.created_in("customers", BEGIN, None)]
        assert [len(some) for some in parts] == [queries.PAGE_ROWS, queries.PAGE_ROWS, 1]
        found = [object_id for some in parts for object_id in some]
        assert len(set(found)) == len(found)
        assert sorted(await held(stored_rows)) == sorted(found)


@pytest.mark.parametrize("columns", ["stored", "virtual", "none"])
async def test_of_a_large_table_no_question_reads_everything(
    config: PostgresConfig, database: asyncpg.Connection, columns: str
) -> None:
    config = config.model_copy(update={"columns": columns})
    selected = customers()
    table = await fill(database, config, selected, 20_000)
    async with PostgresDestination().stored_rows(config, [selected]) as stored_rows:
        assert await indexes(database) == []
        assert len(await held(stored_rows, BEGIN + 100, BEGIN + 400)) == 300
        owners = [f"sub_{number}" for number in range(100)]
        assert len(await stored_rows.belonging_to("customers", "subscription", owners)) == 300
    time, owner = queries.time_index(table), queries.owner_index(table, "subscription")
    assert sorted(await indexes(database)) == sorted([time.name, owner.name])
    for gte, lt in ((BEGIN + 100, BEGIN + 400), (BEGIN + 19_000, None), (None, BEGIN + 500)):
        question = queries.created_in(table, "acct_1", gte, lt, None)
        assert f"Index Scan Backward using {time.name}" in await plan(database, question)
    belonging = queries.belonging_to(table, "acct_1", "subscription", owners)
    assert f"Index Scan using {owner.name}" in await plan(database, belonging)


async def test_a_small_table_gets_no_index(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    selected = customers()
    await fill(database, config, selected, 1_000)
    async with PostgresDestination().stored_rows(config, [selected]) as stored_rows:
        assert len(await held(stored_rows, BEGIN)) == 1_000
    assert await indexes(database) == []


async def test_two_concurrent_queries_create_one_index(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    selected = customers()
    await fill(database, config, selected, 20_000)

    async def query() -> Sequence[str]:
        async with PostgresDestination().stored_rows(config, [selected]) as stored_rows:
            return await held(stored_rows, BEGIN, BEGIN + 10)

    first, second = await asyncio.gather(query(), query())
    assert list(first) == list(second)
    assert len(await indexes(database)) == 1


@pytest.fixture
async def role(database: asyncpg.Connection) -> AsyncIterator[str]:
    """A role that owns nothing."""
    name = f"reader_{await database.fetchval('SELECT current_database()')}"[:60]
    await database.execute(f"CREATE ROLE {name} LOGIN")
    yield name
    await database.execute(f"DROP OWNED BY {name} CASCADE; DROP ROLE {name}")


async def test_a_role_that_may_not_index_reads_the_table_and_gets_one_warning(
    config: PostgresConfig, database_url: str, database: asyncpg.Connection, role: str
) -> None:
    selected = customers()
    table = await fill(database, config, selected, 20_000)
    reader = PostgresConfig.model_validate({"url": database_url.replace("postgres@", f"{role}@")})
    await database.execute(f"GRANT USAGE ON SCHEMA stripe TO {role}")
    await database.execute(f"GRANT SELECT ON {table.quoted} TO {role}")
    with capture_logs() as logs:
        async with PostgresDestination().stored_rows(reader, [selected]) as stored_rows:
            assert len(await held(stored_rows, BEGIN, BEGIN + 10)) == 10
            assert len(await held(stored_rows, BEGIN, BEGIN + 20)) == 20
    assert await indexes(database) == []
    [line] = [line for line in logs if line["event"] == "inventory_not_indexed"]
    # The remedy in the log works.
    await database.execute(line["remedy"].partition(": ")[2])
    with capture_logs() as logs:
        async with PostgresDestination().stored_rows(reader, [selected]) as stored_rows:
            assert len(await held(stored_rows, BEGIN, BEGIN + 10)) == 10
    assert not [line for line in logs if line["event"] == "inventory_not_indexed"]


async def test_a_table_with_a_name_too_long_for_postgres_has_an_index_of_its_own(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    names = [f"{'very_' * 12}long_{number}" for number in range(2)]
    streams = [customers(name) for name in names]
    for selected in streams:
        await fill(database, config, selected, 20_000)
    async with PostgresDestination().stored_rows(config, streams) as stored_rows:
        for name in names:
            assert len(await held(stored_rows, BEGIN, BEGIN + 10, name=name)) == 10
    assert len(await indexes(database)) == 2


async def test_stored_rows_without_queries_open_no_connection() -> None:
    nowhere = PostgresConfig.model_validate({"url": "postgresql://user@127.0.0.1:1/none"})
    async with PostgresDestination().stored_rows(nowhere, [customers()]):
        pass


async def test_a_query_without_a_server_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("engine_server.connectors.postgres.connection.retry.SYNC_TIMEOUT", 0.2)
    nowhere = PostgresConfig.model_validate({"url": "postgresql://user@127.0.0.1:1/none"})
    async with PostgresDestination().stored_rows(nowhere, [customers()]) as stored_rows:
        with pytest.raises(ConnectionFailed):
            await held(stored_rows, BEGIN)


async def test_records_without_a_time_cannot_be_queried_by_time(config: PostgresConfig) -> None:
    selected = stream()
    await write(config, [selected], [records("customers", customer(1))])
    async with PostgresDestination().stored_rows(config, [selected]) as stored_rows:
        assert await held(stored_rows) == ["cus_1"]
        with pytest.raises(ConnectorError, match="customers do not say"):
            await held(stored_rows, BEGIN)
