"""Creation of the schema and its tables."""

import asyncpg
import pytest

from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.destination import PostgresDestination
from engine_server.errors import ConnectorError
from tests.engine_server.connectors.postgres.builders import (
    stream,
)
from tests.engine_server.connectors.postgres.schemas import (
    columns_of,
    set_up,
)


async def test_a_table_has_the_key_the_metadata_and_a_typed_column_for_each_field(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    assert await set_up(config, stream()) == [
        'created schema "stripe"',
        'created table "stripe"."customers"',
    ]
    assert await columns_of(database, "stripe.customers") == {
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
        await set_up(config, stream())
    assert (await columns_of(database, "stored.customers"))["balance"] == "bigint s"
    assert "balance" not in await columns_of(database, "none.customers")


async def test_only_selected_fields_become_columns(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    await set_up(config, stream(fields=["name"]))
    assert set(await columns_of(database, "stripe.customers")) == {
        "id", "_account_id", "_raw_data", "_updated_at", "_last_synced_at", "name",
    }  # fmt: skip


async def test_a_table_made_by_others_is_not_written_to(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    await database.execute("CREATE SCHEMA stripe; CREATE TABLE stripe.customers (id text)")
    with pytest.raises(ConnectorError, match="was made by others"):
        await set_up(config, stream())
    [status] = [message async for message in PostgresDestination().check(config, [stream()])]
    assert "was made by others" in status.connection_status.message


async def test_a_stream_without_a_key_is_refused(config: PostgresConfig) -> None:
    with pytest.raises(ConnectorError, match="customers has no primary key"):
        await set_up(config, stream(primary_key=[]))
