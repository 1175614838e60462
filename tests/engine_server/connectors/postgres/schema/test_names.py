"""Names that Postgres would truncate, fold, or misread."""

import asyncpg
import pytest

from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.schema.tables import quote
from tests.engine_server.connectors.postgres.builders import (
    customer,
    records,
    stream,
    write,
)
from tests.engine_server.connectors.postgres.schemas import (
    columns_of,
    set_up,
    tables_of,
    tear_down,
)


@pytest.mark.parametrize(
    "name", ["user", "Mixed Case", 'quo"ted', "it's", "naïve_日本", "x" * 80, "{curly}", "100%"]
)
async def test_any_name_can_be_a_stream_a_key_and_a_field(
    config: PostgresConfig, database: asyncpg.Connection, name: str
) -> None:
    named = stream(
        name,
        primary_key=[[name]],
        properties={name: {"type": "string"}, f"{name}.": {"type": "integer"}},
        newer_than_field="",
        soft_delete_field=f"{name}!",
    )
    await write(config, [named], [records(name, {name: "key", f"{name}.": 5})])
    [table] = await tables_of(database)
    row = await database.fetchrow(f"SELECT * FROM stripe.{quote(table)}")  # noqa: S608 - is quoted
    assert row is not None
    assert row[0] == "key"
    assert row[-1] == 5


async def test_names_over_63_bytes_that_begin_alike_stay_apart(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    await set_up(config, stream("é" * 40 + "_one"), stream("é" * 40 + "_two"))
    tables = await tables_of(database)
    assert len(tables) == 2
    assert all(len(table.encode()) <= 63 for table in tables)


async def test_a_field_named_like_a_system_column_gets_another_column(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    await set_up(config, stream(properties={"ctid": {"type": "string"}}))
    columns = await columns_of(database, "stripe.customers")
    assert [name for name in columns if name.startswith("ctid_")]


async def test_a_field_whose_name_another_would_get_has_a_column_of_its_own(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    named = stream(properties={"ctid": {"type": "string"}, "ctid_": {"type": "string"}})
    await write(config, [named], [records("customers", customer(1, ctid="one", ctid_="two"))])
    row = await database.fetchrow("SELECT * FROM stripe.customers")
    assert row is not None
    assert {"one", "two"} <= set(row.values())


@pytest.mark.parametrize("schema", ["user", "Mixed Case", 'quo"ted', "it's", "日本", "{}", "%s"])
async def test_any_name_can_be_a_schema(
    database_url: str, database: asyncpg.Connection, schema: str
) -> None:
    config = PostgresConfig.model_validate({"url": database_url, "schema": schema})
    await set_up(config, stream())
    await write(config, [stream()], [records("customers", customer(1))])
    assert await set_up(config, stream()) == []
    assert await tables_of(database, schema) == ["customers"]
    await tear_down(config, stream())
    assert not await database.fetchval("SELECT to_regnamespace($1) IS NOT NULL", quote(schema))
