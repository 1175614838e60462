"""A row holds exactly the record that was sent, or the record is refused by its key."""

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine_server.connectors.postgres.config import PostgresConfig
from tests.engine_server.connectors.postgres.any_json import (
    as_object,
    exactly,
    json_texts,
    words,
)
from tests.engine_server.connectors.postgres.builders import records, stream, write
from tests.engine_server.connectors.postgres.schemas import rejected_rows

OWN = {"id", "_account_id", "_updated_at"}


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    contents=st.lists(
        st.dictionaries(words.filter(lambda word: word not in OWN), json_texts, max_size=6),
        min_size=1,
        max_size=20,
    )
)
async def test_any_object_is_stored_as_it_was_sent(
    config: PostgresConfig, database: asyncpg.Connection, contents: list[dict[str, str]]
) -> None:
    sent = {str(number): {"id": f'"{number}"', **one} for number, one in enumerate(contents)}
    metadata = {"_account_id": '"acct_1"', "_updated_at": "1"}
    written = await write(
        config,
        [stream()],
        [records("customers", *(as_object({**one, **metadata}).encode() for one in sent.values()))],
    )
    assert [message.WhichOneof("payload") for message in written] == ["record_batch"]
    rows = await database.fetch("SELECT id, _raw_data FROM stripe.customers")
    await database.execute("TRUNCATE stripe.customers")
    stored = {row["id"]: exactly(row["_raw_data"]) for row in rows}
    assert stored == {key: exactly(as_object(one)) for key, one in sent.items()}


REFUSED = {
    "a number that is too large": '"n": 1e131073',
    "a number that is too small": '"n": 1e-20000',
    "a time beyond all calendars": '"_updated_at": 1e40',
}
# The separator that Postgres receives between two records.
SEPARATOR = "\x1e"


@pytest.mark.parametrize("field", REFUSED.values(), ids=REFUSED.keys())
async def test_records_that_cannot_be_stored_exactly_are_refused_by_key(
    config: PostgresConfig, database: asyncpg.Connection, field: str
) -> None:
    others = [b'{"id": "good", "_account_id": "acct_1"}'] * 3
    bad = f'{{"id": "bad", "_account_id": "acct_1", {field}}}'.encode()
    await write(config, [stream()], [records("customers", *others, bad, *others)])
    [rejected] = await rejected_rows(database)
    assert rejected["key"] == ["bad", "acct_1"]
    assert rejected["record"] == bad
    assert await database.fetchval("SELECT count(*) FROM stripe.customers") == 1


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize(
    "inside",
    [f'"n": "{SEPARATOR}"', f'"n": 1}}{SEPARATOR}{{"id": "two", "_account_id": "acct_1"'],
    ids=["in a text", "between two objects"],
)
async def test_a_record_with_the_separator_of_records_is_refused(
    config: PostgresConfig, database: asyncpg.Connection, place: int, inside: str
) -> None:
    sent = [f'{{"id": "{number}", "_account_id": "acct_1"}}'.encode() for number in range(2)]
    sent.insert(place, f'{{"id": "bad", "_account_id": "acct_1", {inside}}}'.encode())
    await write(config, [stream()], [records("customers", *sent)])
    assert [row["record"] for row in await rejected_rows(database)] == [sent[place]]
    assert await database.fetchval("SELECT count(*) FROM stripe.customers") == 2


async def test_arrays_inside_arrays_without_end_are_refused(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    bad = f'{{"id": "bad", "_account_id": "acct_1", "n": {"[" * 100_000}{"]" * 100_000}}}'
    await write(config, [stream()], [records("customers", bad.encode())])
    assert [row["record"] for row in await rejected_rows(database)] == [bad.encode()]


async def test_a_key_too_long_for_an_index_is_refused(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    # Random, because Postgres compresses repetitions.
    long = "".join(chr(0x4E00 + number * 7919 % 20000) for number in range(4000))
    bad = {"id": long, "_account_id": "acct_1"}
    await write(config, [stream()], [records("customers", bad)])
    assert [row["key"] for row in await rejected_rows(database)] == [[long, "acct_1"]]


async def test_many_large_objects_are_stored_whole(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    large = [
        {"id": str(number), "_account_id": "acct_1", "text": chr(0x61 + number) * 1_000_000}
        for number in range(20)
    ]
    await write(config, [stream()], [records("customers", *large)])
    lengths = await database.fetch("SELECT length(_raw_data ->> 'text') FROM stripe.customers")
    assert [row[0] for row in lengths] == [1_000_000] * 20
