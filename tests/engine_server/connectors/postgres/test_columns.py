"""What a typed column reads."""

from typing import Any

import asyncpg
import pytest

from engine_server.connectors.postgres.config import PostgresConfig
from tests.engine_server.connectors.postgres.builders import (
    customer,
    records,
    stream,
    write,
)

MODES = ["virtual", "stored"]


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
