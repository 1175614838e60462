"""Tables that lose their rows during a write: rows that it writes later do not hide the loss."""

from collections.abc import AsyncIterator, Sequence

import asyncpg
import pytest

from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.protocols import SelectedStream
from engine_server.errors import CheckpointsMoved
from pipesync.v1.message_pb2 import Message
from tests.engine_server.connectors.postgres.builders import customer, records, stream, write
from tests.engine_server.connectors.postgres.resuming import Caller
from tests.engine_server.connectors.postgres.schemas import set_up
from tests.engine_server.connectors.postgres.sessions import until
from tests.messages import checkpoint

TRUNCATE = "TRUNCATE stripe.customers"
RESTORE = """
ALTER TABLE stripe.customers RENAME TO was;
CREATE TABLE stripe.customers (LIKE stripe.was INCLUDING ALL);
"""
REWRITE = "VACUUM FULL stripe.customers"


@pytest.fixture
def config(database_url: str) -> PostgresConfig:
    """A configuration that flushes every row."""
    return PostgresConfig.model_validate({"url": database_url, "batch_size": 1})


@pytest.fixture
async def streams(config: PostgresConfig) -> Sequence[SelectedStream]:
    streams = stream(), stream("products")
    await set_up(config, *streams)
    return streams


async def damaged(database: asyncpg.Connection, damage: str) -> AsyncIterator[Message]:
    """Yield the messages of a sync, with an action on the table in the middle."""
    yield records("customers", customer(1))
    yield checkpoint("customers", "1")
    await until(database, "SELECT EXISTS (SELECT FROM stripe.customers)")
    await database.execute(damage)
    yield records("products", customer(1))
    yield records("customers", customer(2))
    yield checkpoint("customers", "2")


@pytest.mark.parametrize("damage", [TRUNCATE, RESTORE], ids=["truncated", "made anew"])
async def test_a_sync_ends_and_the_next_one_reads_from_the_start(
    config: PostgresConfig,
    streams: Sequence[SelectedStream],
    database: asyncpg.Connection,
    damage: str,
) -> None:
    caller = Caller(config, *streams)
    resumed = await caller.resume()
    with pytest.raises(CheckpointsMoved, match="a table was emptied or made anew: sync again"):
        await caller.write(resumed, damaged(database, damage))
    assert await database.fetchval("SELECT count(*) FROM stripe.customers") == 0
    [rewind] = [one for one in (await caller.resume()).rewinds if one.stream == "customers"]
    assert (rewind.checkpoint, rewind.is_empty) == (None, True)


async def test_a_sync_whose_table_is_rewritten_continues_with_the_next_request(
    config: PostgresConfig, streams: Sequence[SelectedStream], database: asyncpg.Connection
) -> None:
    caller = Caller(config, *streams)
    resumed = await caller.resume()
    with pytest.raises(CheckpointsMoved):
        await caller.write(resumed, damaged(database, REWRITE))
    again = await caller.resume()
    assert not again.rewinds
    assert caller.state.source.streams["customers"] == "1"
    await caller.write(again, [records("customers", customer(2)), checkpoint("customers", "2")])
    assert await database.fetchval("SELECT count(*) FROM stripe.customers") == 2


async def test_a_write_that_records_no_checkpoints_ends_too(
    config: PostgresConfig, streams: Sequence[SelectedStream], database: asyncpg.Connection
) -> None:
    caller = Caller(config, *streams)
    rows = [records("customers", customer(0)), checkpoint("customers", "0")]
    await caller.write(await caller.resume(), rows)
    await database.execute(TRUNCATE)
    with pytest.raises(CheckpointsMoved):
        await write(config, streams, damaged(database, TRUNCATE))
    assert await database.fetchval("SELECT count(*) FROM stripe.customers") == 0
