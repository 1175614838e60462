"""A typed column holds the id of a reference, expanded or not."""

import json

import asyncpg
import pytest

from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.destination import PostgresDestination
from engine_server.connectors.protocols import SelectedStream
from tests.engine_server.connectors.postgres.builders import (
    CUSTOMER_FIELDS,
    customer,
    logs,
    records,
    stream,
    write,
)

REFERENCE = {"type": ["string", "null"]}


def charges(*references: str) -> SelectedStream:
    selected = stream(properties={**CUSTOMER_FIELDS, "customer": REFERENCE})
    selected.stream.reference_fields.extend(references)
    return selected


SENT = {
    "an id": ("cus_9", "cus_9"),
    "an object": ({"id": "cus_9", "object": "customer", "name": 'a"b'}, "cus_9"),
    "a deleted object": ({"id": "cus_9", "object": "customer", "deleted": True}, "cus_9"),
    "nothing": (None, None),
    "an object without an id": ({"object": "customer"}, None),
    "a number": (7, "7"),
    "a list": (["cus_9"], '["cus_9"]'),
}


@pytest.mark.parametrize("columns", ["stored", "virtual"])
@pytest.mark.parametrize(("sent", "held"), SENT.values(), ids=SENT.keys())
async def test_the_column_holds_the_id(
    config: PostgresConfig,
    database: asyncpg.Connection,
    columns: str,
    sent: object,
    held: str | None,
) -> None:
    config = config.model_copy(update={"columns": columns})
    await write(config, [charges("customer")], [records("customers", customer(1, customer=sent))])
    [row] = await database.fetch(
        "SELECT customer, _raw_data -> 'customer' = $1::jsonb AS is_as_sent FROM stripe.customers",
        json.dumps(sent),
    )
    assert tuple(row) == (held, True)


async def test_a_field_that_is_no_reference_keeps_the_text_of_an_object(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    await write(
        config, [charges("customer")], [records("customers", customer(1, name={"id": "x"}))]
    )
    assert await database.fetchval("SELECT name FROM stripe.customers") == '{"id": "x"}'


async def test_virtual_columns_of_a_table_that_exists_hold_ids_after_the_next_setup(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    config = config.model_copy(update={"columns": "virtual"})
    before = charges()
    expanded = customer(1, customer={"id": "cus_9"}, name="Ada")
    await write(config, [before], [records("customers", expanded)])
    assert await database.fetchval("SELECT customer FROM stripe.customers") == '{"id": "cus_9"}'
    said = await logs(PostgresDestination().setup(config, [charges("customer")]))
    assert said == [
        'changed in table "stripe"."customers", to hold ids of expanded references: "customer"'
    ]
    assert await database.fetchval("SELECT customer FROM stripe.customers") == "cus_9"
    assert await logs(PostgresDestination().setup(config, [charges("customer")])) == []


async def test_stored_columns_of_a_table_that_exists_stay_until_they_are_dropped(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    config = config.model_copy(update={"columns": "stored"})
    before = charges()
    await write(config, [before], [records("customers", customer(1, customer={"id": "cus_9"}))])
    assert await logs(PostgresDestination().setup(config, [charges("customer")])) == []
    await database.execute("ALTER TABLE stripe.customers DROP COLUMN customer")
    await logs(PostgresDestination().setup(config, [charges("customer")]))
    assert await database.fetchval("SELECT customer FROM stripe.customers") == "cus_9"
