"""Concurrent flushes of one stream, allowed only while no row is in both."""

import asyncio
from contextlib import aclosing

import asyncpg
import orjson
import pytest

from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.destination import PostgresDestination
from engine_server.connectors.postgres.rows.keys import KeyReader
from engine_server.connectors.postgres.rows.row import StreamRows, may_share_a_row
from engine_server.connectors.postgres.schema.tables import table_of
from tests.engine_server.connectors.postgres.builders import customer, logs, records, stream, write
from tests.engine_server.connectors.postgres.sessions import until_blocked
from tests.engine_server.stages.sequences import given

READER = KeyReader(table_of(stream(), "stripe"))


@pytest.fixture
def small_batches(database_url: str) -> PostgresConfig:
    """A configuration that flushes every two rows."""
    return PostgresConfig.model_validate({"url": database_url, "batch_size": 2})


def test_the_key_is_read_where_a_record_begins_with_it() -> None:
    assert READER.read([b'{"id":"a","x":1}', b' { "id" : "b"}']) == {b"a", b"b"}


@pytest.mark.parametrize(
    "record",
    [b'{"x":1,"id":"a"}', b'{"id":7}', b'{"id":"\\u0061"}', b'{"id":"a', b"", b"7"],
)
def test_a_record_with_an_unreadable_key_may_be_of_any_row(record: bytes) -> None:
    assert READER.read([b'{"id":"b"}', record]) is None


def _rows(keys: set[bytes] | None) -> StreamRows:
    return StreamRows(keys=keys)


def test_records_share_a_row_unless_the_keys_of_each_stream_differ() -> None:
    a, b, both, any_row = map(_rows, ({b"a"}, {b"b"}, {b"a", b"b"}, None))
    assert not may_share_a_row({"s": a}, {"s": b})
    assert not may_share_a_row({"s": a}, {"t": a})
    assert not may_share_a_row({"s": any_row}, {"t": a})
    assert may_share_a_row({"s": a}, {"s": both})
    assert may_share_a_row({"s": a}, {"s": any_row})
    assert may_share_a_row({"s": a, "t": b}, {"s": b, "t": b})


@pytest.mark.parametrize(
    ("pages", "reader", "keys"),
    [
        ([b"ab", b"bc"], READER, {b"a", b"b", b"c"}),
        ([b"a", b"?", b"b"], READER, None),
        ([b"a"], None, None),
    ],
    ids=["all keys are known", "one is unknown", "of no table"],
)
def test_rows_have_keys_only_if_all_of_their_records_do(
    pages: list[bytes], reader: KeyReader | None, keys: set[bytes] | None
) -> None:
    rows = StreamRows()
    for page in pages:
        ids = [bytes([letter]) for letter in page]
        rows.add([b'{"x":1}' if key == b"?" else b'{"id":"%b"}' % key for key in ids], reader)
    assert rows.keys == keys
    assert len(rows) == sum(map(len, pages))


async def test_flushes_of_different_rows_go_side_by_side(
    small_batches: PostgresConfig, database: asyncpg.Connection
) -> None:
    await logs(PostgresDestination().setup(small_batches, [stream()]))
    pages = [records("customers", customer(number), customer(number + 1)) for number in (1, 3)]
    async with database.transaction():
        await database.execute("LOCK TABLE stripe.customers IN EXCLUSIVE MODE")
        writing = asyncio.create_task(write(small_batches, [stream()], pages))
        await until_blocked(database, 2)
    assert len(await writing) == 2
    assert await database.fetchval("SELECT count(*) FROM stripe.customers") == 4


async def test_of_versions_of_one_second_the_last_wins_however_they_are_flushed(
    small_batches: PostgresConfig, database: asyncpg.Connection
) -> None:
    versions = 30
    pages = [
        records(
            "customers",
            customer(1, name=f"version {version}", at=50),
            customer(version + 2, at=50),
        )
        for version in range(versions)
    ]
    outgoing = PostgresDestination().write(small_batches, [stream()], given(*pages))
    async with aclosing(outgoing):
        async for _ in outgoing:
            pass
    stored = await database.fetchval("SELECT _raw_data FROM stripe.customers WHERE id = 'cus_1'")
    assert orjson.loads(stored)["name"] == f"version {versions - 1}"
