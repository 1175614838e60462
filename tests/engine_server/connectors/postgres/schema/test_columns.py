"""Values of typed columns."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine_server.connectors.postgres.config import PostgresConfig
from tests.engine_server.connectors.postgres.any_json import as_object, exactly, json_texts
from tests.engine_server.connectors.postgres.builders import (
    customer,
    records,
    stream,
    write,
)

MODES = ["virtual", "stored"]


# A column, the value in a record, and the value of the column.
FIELD_VALUES: list[tuple[str, Any, Any]] = [
    ("balance", 5, 5),
    ("balance", 9223372036854775807, 9223372036854775807),
    ("balance", 9223372036854775808, None),
    ("balance", -9223372036854775808, -9223372036854775808),
    ("balance", 10**40, None),
    ("balance", 5.0, 5),
    ("balance", 5.5, None),
    ("balance", -0.4, None),
    ("balance", True, None),
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


def _is_number(value: Any) -> bool:
    return isinstance(value, Decimal)


def _is_whole(value: Any) -> bool:
    return _is_number(value) and -(2**63) <= value < 2**63 and value % 1 == 0


# The column's value for a value that the schema allows; for others it is NULL.
READ: dict[str, Callable[[Any], bool]] = {
    "balance": _is_whole,
    "rate": _is_number,
    "livemode": lambda value: isinstance(value, bool),
    "address": lambda value: value is not None,
}


@pytest.mark.parametrize("mode", MODES)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(texts=st.lists(json_texts, min_size=1, max_size=20))
async def test_a_column_reads_a_value_exactly_or_not_at_all(
    database_url: str, database: asyncpg.Connection, mode: str, texts: list[str]
) -> None:
    config = PostgresConfig.model_validate({"url": database_url, "columns": mode})
    sent = [
        as_object(
            {
                "id": f'"{number}"',
                "_account_id": '"acct_1"',
                **dict.fromkeys([*READ, "name"], text),
            }
        ).encode()
        for number, text in enumerate(texts)
    ]
    await write(config, [stream()], [records("customers", *sent)])
    rows = await database.fetch("SELECT * FROM stripe.customers")
    await database.execute("TRUNCATE stripe.customers")
    assert len(rows) == len(texts)
    for row in rows:
        value = exactly(texts[int(row["id"])])
        for column, can_be_read in READ.items():
            read = row[column]
            if column == "address" and read is not None:
                read = exactly(read)
            assert read == (value if can_be_read(value) else None), (column, value)
        if value is None or isinstance(value, str):
            assert row["name"] == value
