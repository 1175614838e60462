"""Row counts: each record is counted once, by its effect on its row."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
from pydantic import SecretStr

from engine_server.connectors.postgres.config import PostgresConfig
from pipesync.v1.message_pb2 import Message
from pipesync.v1.progress_pb2 import RowCounts
from tests.engine_server.connectors.postgres.builders import (
    customer,
    records,
    stream,
    write_and_count,
)
from tests.engine_server.connectors.postgres.proxy import Proxy
from tests.engine_server.connectors.postgres.schemas import break_at, set_up
from tests.messages import checkpoint, completed, rows_written

BOTH = pytest.mark.parametrize("delete_mode", ["soft", "hard"])


@pytest.fixture
def small_batches(database_url: str) -> PostgresConfig:
    """A configuration that flushes every two rows."""
    return PostgresConfig.model_validate({"url": database_url, "batch_size": 2})


def _sums(messages: list[Message], name: str = "customers") -> RowCounts:
    """Return the sum of one stream's counts, which equals the number of its records."""
    total = RowCounts()
    record_count = 0
    for message in messages:
        if message.record_batch.stream == name:
            record_count += len(message.record_batch.records)
        if message.rows_written.stream == name:
            rows = message.rows_written.rows
            total.inserted += rows.inserted
            total.updated += rows.updated
            total.unchanged += rows.unchanged
            total.deleted += rows.deleted
            total.rejected += rows.rejected
    assert sum(count for _, count in total.ListFields()) == record_count
    return total


async def test_a_flush_reports_counts_once_for_each_stream_right_behind_its_last_records(
    config: PostgresConfig,
) -> None:
    messages = [
        records("customers", customer(1)),
        checkpoint("customers"),
        records("products", customer(1), customer(2)),
        records("customers", customer(2)),
        checkpoint("customers"),
        completed("products"),
    ]
    yielded = await write_and_count(config, [stream(), stream("products")], messages)
    messages.insert(4, rows_written("customers", inserted=2))
    messages.insert(3, rows_written("products", inserted=2))
    assert yielded == messages


@BOTH
async def test_each_record_is_counted_by_its_effect_on_its_row(
    config: PostgresConfig, delete_mode: str
) -> None:
    config = config.model_copy(update={"delete_mode": delete_mode})
    page = records("customers", *[customer(number, at=2) for number in range(6)])
    assert _sums(await write_and_count(config, [stream()], [page])) == RowCounts(inserted=6)
    assert _sums(await write_and_count(config, [stream()], [page])) == RowCounts(unchanged=6)
    changes = records(
        "customers",
        customer(0, at=2),
        customer(1, at=3, name="changed"),
        customer(1, at=3, name="changed once more"),
        customer(2, at=1, name="older than what is stored"),
        customer(3, at=3, deleted=True),
        customer(6, at=3),
    )
    assert _sums(await write_and_count(config, [stream()], [changes])) == RowCounts(
        inserted=1, updated=1, unchanged=3, deleted=1
    )
    deleted_again = records("customers", customer(3, at=3, deleted=True))
    assert _sums(await write_and_count(config, [stream()], [deleted_again])) == RowCounts(
        unchanged=1
    )


async def test_the_counts_of_many_flushes_add_up_to_the_records(
    small_batches: PostgresConfig,
) -> None:
    # Every third record repeats one of the first, in another flush.
    pages = [
        message
        for number in range(30)
        for message in (
            records("customers", customer(number % 20), customer(number)),
            checkpoint("customers"),
        )
    ]
    yielded = await write_and_count(small_batches, [stream()], pages)
    assert _sums(yielded) == RowCounts(inserted=30, unchanged=30)


async def test_a_refused_streams_rows_count_as_far_as_they_were_committed(
    small_batches: PostgresConfig, database: asyncpg.Connection
) -> None:
    streams = [stream(), stream("products")]
    await set_up(small_batches, *streams)
    await break_at(database, "customers", "cus_3")
    # Its key cannot be read from its first bytes, so no later batch is written concurrently.
    poison = b'{"object": "customer", "id": "cus_3", "_account_id": "acct_1"}'
    messages = [
        records("customers", customer(1), customer(2)),
        records("customers", poison, customer(4)),
        records("products", customer(1), customer(2)),
        records("customers", customer(5), customer(6)),
    ]
    yielded = await write_and_count(small_batches, streams, messages)
    assert _sums(yielded) == RowCounts(inserted=2)
    assert _sums(yielded, "products") == RowCounts(inserted=2)
    assert await database.fetchval("SELECT count(*) FROM stripe.customers") == 2


async def test_rejected_records_count_with_the_others(
    small_batches: PostgresConfig, database: asyncpg.Connection
) -> None:
    messages = [
        records("customers", customer(1), customer(2)),
        records("customers", customer(3), b"{}"),
        records("products", customer(1), customer(2)),
        records("customers", customer(4), customer(4)),
    ]
    yielded = await write_and_count(small_batches, [stream(), stream("products")], messages)
    assert _sums(yielded) == RowCounts(inserted=4, unchanged=1, rejected=1)
    assert _sums(yielded, "products") == RowCounts(inserted=2)
    assert await database.fetchval("SELECT count(*) FROM stripe.customers") == 4


@pytest.mark.parametrize(
    ("to_server", "counts"),
    [
        pytest.param(True, {"inserted": 2}, id="before the commit"),
        # The outcome is unknown: the second try has nothing left to do.
        pytest.param(False, {"unchanged": 2}, id="before the answer to the commit"),
    ],
)
async def test_a_flush_that_is_tried_again_counts_once(
    small_batches: PostgresConfig,
    database_url: str,
    to_server: bool,
    counts: dict[str, int],
    tables_made: asyncio.Event,
) -> None:
    await set_up(small_batches, stream())
    async with Proxy(database_url) as proxy:
        config = small_batches.model_copy(update={"url": SecretStr(proxy.url)})

        async def source() -> AsyncIterator[Message]:
            await tables_made.wait()
            proxy.cut_at(b"COMMIT\0", to_server=to_server, deliver=False)
            yield records("customers", customer(1), customer(2))

        yielded = await write_and_count(config, [stream()], source())
    assert _sums(yielded) == RowCounts(**counts)
