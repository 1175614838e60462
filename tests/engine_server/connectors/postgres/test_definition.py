"""Schema, tables and columns: made where missing, and dropped."""

import asyncio
from typing import Any

import asyncpg
import pytest

from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.destination import PostgresDestination
from engine_server.connectors.postgres.tables import quote
from engine_server.connectors.protocols import SelectedStream
from engine_server.errors import ConnectorError
from tests.engine_server.connectors.postgres.builders import (
    customer,
    logs,
    records,
    stream,
    write,
)

MODES = ["virtual", "stored"]


async def _setup(config: PostgresConfig, *streams: SelectedStream) -> list[str]:
    return await logs(PostgresDestination().setup(config, streams))


async def _teardown(config: PostgresConfig, *streams: SelectedStream) -> list[str]:
    return await logs(PostgresDestination().teardown(config, streams))


async def _columns(database: asyncpg.Connection, table: str) -> dict[str, str]:
    rows = await database.fetch(
        """
        SELECT attname, format_type(atttypid, atttypmod) AS type, attgenerated::text AS generated
        FROM pg_attribute
        WHERE attrelid = $1::text::regclass AND attnum > 0
        """,
        table,
    )
    return {row["attname"]: f"{row['type']} {row['generated']}".strip() for row in rows}


async def _tables(database: asyncpg.Connection, schema: str = "stripe") -> list[str]:
    rows = await database.fetch(
        "SELECT tablename FROM pg_tables WHERE schemaname = $1 ORDER BY 1", schema
    )
    return [row["tablename"] for row in rows]


async def test_a_table_has_the_key_the_stamps_and_a_typed_column_for_each_field(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    assert await _setup(config, stream()) == [
        'created schema "stripe"',
        'created table "stripe"."customers"',
    ]
    assert await _columns(database, "stripe.customers") == {
        "id": "text",
        "_account_id": "text",
        "_raw_data": "jsonb",
        "_updated_at": "timestamp with time zone",
        "_last_synced_at": "timestamp with time zone",
        "object": "text v",
        "name": "text v",
        "balance": "bigint v",
        "rate": "numeric v",
        "livemode": "boolean v",
        "address": "jsonb v",
        "tags": "jsonb v",
        "deleted": "boolean v",
    }
    key = await database.fetchval(
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'p' AND conrelid = $1",
        await database.fetchval("SELECT 'stripe.customers'::regclass::oid"),
    )
    assert key == "PRIMARY KEY (id, _account_id)"


async def test_stored_columns_are_kept_on_disk_and_none_leaves_them_out(
    database_url: str, database: asyncpg.Connection
) -> None:
    for mode in ("stored", "none"):
        config = PostgresConfig.model_validate(
            {"url": database_url, "columns": mode, "schema": mode}
        )
        await _setup(config, stream())
    assert (await _columns(database, "stored.customers"))["balance"] == "bigint s"
    assert "balance" not in await _columns(database, "none.customers")


# A column, what a record has there, and what the column reads.
FIELD_VALUES: list[tuple[str, Any, Any]] = [
    ("balance", 5, 5),
    ("balance", 9223372036854775807, 9223372036854775807),
    ("balance", 9223372036854775808, None),
    ("balance", "five", None),
    ("balance", [5], None),
    ("balance", {"five": 5}, None),
    ("balance", None, None),
    ("rate", True, None),
    ("livemode", True, True),
    ("livemode", "yes", None),
    ("livemode", None, None),
    ("name", "Ada", "Ada"),
    ("name", 5, "5"),
    ("name", None, None),
    ("address", {"city": "London"}, '{"city": "London"}'),
    ("address", None, None),
    ("tags", "none", '"none"'),
]


@pytest.mark.parametrize("mode", MODES)
async def test_a_field_of_another_type_reads_null_and_refuses_no_row(
    database_url: str, database: asyncpg.Connection, mode: str
) -> None:
    config = PostgresConfig.model_validate({"url": database_url, "columns": mode})
    sent = [
        customer(number, **{column: value})
        for number, (column, value, _) in enumerate(FIELD_VALUES)
    ]
    await write(config, [stream()], [records("customers", *sent)])
    rows = {row["id"]: row for row in await database.fetch("SELECT * FROM stripe.customers")}
    for number, (column, value, read) in enumerate(FIELD_VALUES):
        assert rows[f"cus_{number}"][column] == read, (column, value)


async def test_numbers_are_exact(config: PostgresConfig, database: asyncpg.Connection) -> None:
    number = "123456789012345678901234567890.123456789"
    record = b'{"id": "cus_1", "_account_id": "acct_1", "rate": %s}' % number.encode()
    await write(config, [stream()], [records("customers", record)])
    assert str(await database.fetchval("SELECT rate FROM stripe.customers")) == number


async def test_a_second_setup_does_nothing(config: PostgresConfig) -> None:
    await _setup(config, stream(), stream("products"))
    assert await _setup(config, stream(), stream("products")) == []


@pytest.mark.parametrize("mode", MODES)
async def test_new_fields_become_new_columns_filled_from_old_rows_and_none_is_dropped(
    database_url: str, database: asyncpg.Connection, mode: str
) -> None:
    config = PostgresConfig.model_validate({"url": database_url, "columns": mode})
    old = stream(properties={"id": {"type": "string"}, "name": {"type": "string"}})
    new = stream(properties={"id": {"type": "string"}, "balance": {"type": "integer"}})
    await write(config, [old], [records("customers", customer(1, name="Ada", balance=5))])
    assert await _setup(config, new) == ['added to table "stripe"."customers": "balance"']
    row = await database.fetchrow("SELECT name, balance FROM stripe.customers")
    assert row is not None
    assert tuple(row) == ("Ada", 5)


async def test_only_selected_fields_become_columns(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    await _setup(config, stream(fields=["name"]))
    assert set(await _columns(database, "stripe.customers")) == {
        "id", "_account_id", "_raw_data", "_updated_at", "_last_synced_at", "name",
    }  # fmt: skip


async def test_setups_at_the_same_time_do_not_disturb_each_other(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    streams = [stream(f"stream_{number}") for number in range(5)]
    made = await asyncio.gather(*(_setup(config, *streams) for _ in range(4)))
    assert sorted(len(sentences) for sentences in made) == [0, 0, 0, 6]
    assert len(await _tables(database)) == 5


@pytest.mark.parametrize(
    "name", ["user", "Mixed Case", 'quo"ted', "it's", "naïve_日本", "x" * 80, "{curly}", "100%"]
)
async def test_any_name_can_be_a_stream_a_key_and_a_field(
    config: PostgresConfig, database: asyncpg.Connection, name: str
) -> None:
    named = stream(
        name,
        primary_key=[[name]],
        properties={f"{name}.": {"type": "integer"}},
        newer_than_field="",
        soft_delete_field=f"{name}!",
    )
    await write(config, [named], [records(name, {name: "key", f"{name}.": 5})])
    [table] = await _tables(database)
    row = await database.fetchrow(f"SELECT * FROM stripe.{quote(table)}")  # noqa: S608 - is quoted
    assert row is not None
    assert row[0] == "key"
    assert row[-1] == 5


async def test_names_over_63_bytes_that_begin_alike_stay_apart(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    await _setup(config, stream("é" * 40 + "_one"), stream("é" * 40 + "_two"))
    tables = await _tables(database)
    assert len(tables) == 2
    assert all(len(table.encode()) <= 63 for table in tables)


async def test_a_field_named_like_a_system_column_gets_another_column(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    await _setup(config, stream(properties={"ctid": {"type": "string"}}))
    assert "ctid_" in await _columns(database, "stripe.customers")


async def test_a_table_made_by_others_is_not_written_to(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    await database.execute("CREATE SCHEMA stripe; CREATE TABLE stripe.customers (id text)")
    with pytest.raises(ConnectorError, match="was made by others"):
        await _setup(config, stream())


async def test_a_stream_without_a_key_is_refused(config: PostgresConfig) -> None:
    with pytest.raises(ConnectorError, match="customers has no primary key"):
        await _setup(config, stream(primary_key=[]))


async def test_teardown_drops_the_tables_of_its_streams_and_then_the_empty_schema(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    await _setup(config, stream("one"), stream("two"))
    assert await _teardown(config, stream("one")) == ['dropped table "stripe"."one"']
    assert await _teardown(config, stream("one"), stream("two")) == [
        'dropped table "stripe"."two"',
        'dropped schema "stripe"',
    ]
    assert await _teardown(config, stream("one"), stream("two")) == []


async def test_teardown_keeps_public_and_what_others_made_in_it(
    database_url: str, database: asyncpg.Connection
) -> None:
    config = PostgresConfig.model_validate({"url": database_url, "schema": "public"})
    await _setup(config, stream("ours"))
    await database.execute("CREATE TABLE public.theirs (id text)")
    assert await _teardown(config, stream("ours"), stream("theirs")) == [
        'dropped table "public"."ours"',
        'left table "public"."theirs" alone: it was made by others',
    ]
    assert await _tables(database, "public") == ["theirs"]


@pytest.mark.parametrize("schema", ["pg_catalog", "pg_toast", "information_schema"])
async def test_teardown_refuses_the_schemas_of_postgres(database_url: str, schema: str) -> None:
    config = PostgresConfig.model_validate({"url": database_url, "schema": schema})
    with pytest.raises(ConnectorError, match="belongs to Postgres itself"):
        await _teardown(config, stream())


async def test_teardown_drops_nothing_that_a_view_depends_on(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    await _setup(config, stream("one"), stream("two"))
    await database.execute("CREATE VIEW public.rich AS SELECT id FROM stripe.two")
    with pytest.raises(ConnectorError, match="other objects depend on it"):
        await _teardown(config, stream("one"), stream("two"))
    assert await _tables(database) == ["one", "two"]
