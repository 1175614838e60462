"""Entries are moved together with the rows before them, in any order of commits."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

import asyncpg
import pytest

from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.destination import PostgresDestination
from engine_server.connectors.postgres.rows import batch
from engine_server.errors import CheckpointsMoved
from pipesync.v1.message_pb2 import Message
from tests.engine_server.connectors.postgres.builders import customer, records, stream, write
from tests.engine_server.connectors.postgres.resuming import Caller, inputs_end
from tests.engine_server.connectors.postgres.schemas import refuse_with, set_up
from tests.engine_server.connectors.postgres.sessions import until
from tests.engine_server.stages.sequences import given
from tests.messages import checkpoint

INPUTS: dict[str, Any] = {
    "advanced_streams": (),
    "advances_shared_checkpoint": False,
    "pushes_inputs": True,
}
# Also by a row lock, which pg_locks lists without a database.
BLOCKED = (
    "SELECT EXISTS (SELECT FROM pg_stat_activity "
    "WHERE datname = current_database() AND wait_event_type = 'Lock')"
)


@pytest.fixture
def small_batches(database_url: str) -> PostgresConfig:
    """A configuration that flushes every row."""
    return PostgresConfig.model_validate({"url": database_url, "batch_size": 1})


@pytest.fixture
async def caller(small_batches: PostgresConfig) -> Caller:
    streams = stream(), stream("products")
    await set_up(small_batches, *streams)
    return Caller(small_batches, *streams)


async def entries(database: asyncpg.Connection) -> Mapping[str, str | None]:
    """Return the checkpoint of each entry except that of the inputs."""
    rows = await database.fetch(
        "SELECT stream, checkpoint FROM stripe._pipesync_checkpoints WHERE stream <> '(inputs)'"
    )
    return {row["stream"]: row["checkpoint"] for row in rows}


async def _line_becomes(database: asyncpg.Connection, name: str, text: str) -> None:
    await until(
        database,
        "SELECT EXISTS (SELECT FROM stripe._pipesync_checkpoints "
        "WHERE stream = $1 AND checkpoint = $2)",
        name,
        text,
    )


async def test_a_flush_locks_entries_in_the_order_of_comparisons(
    caller: Caller, database: asyncpg.Connection, database_url: str
) -> None:
    resumed = await caller.resume()
    messages = [records("products", customer(1)), checkpoint("customers", "1")]
    entry = "SELECT FROM stripe._pipesync_checkpoints WHERE stream = $1 FOR UPDATE NOWAIT"
    comparing, holding = [await asyncpg.connect(database_url) for _ in range(2)]
    async with comparing.transaction():
        await comparing.fetch(entry, "customers")
        async with holding.transaction():
            await holding.execute("LOCK TABLE stripe.products IN EXCLUSIVE MODE")
            writing = asyncio.create_task(caller.write(resumed, messages))
            await until(database, BLOCKED)
        await until(
            database,
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() "
            "AND wait_event IN ('transactionid', 'tuple'))",
        )
        # The comparison continues, and then the flush.
        await comparing.fetch(entry, "products")
    await writing
    assert await entries(database) == {"customers": "1", "products": None, "": None}
    await comparing.close()
    await holding.close()


async def test_an_entry_waits_for_no_flush_of_another_stream(
    caller: Caller, database: asyncpg.Connection, database_url: str
) -> None:
    resumed = await caller.resume()
    messages = [
        records("customers", customer(1)),
        checkpoint("customers", "1"),
        records("products", customer(1)),
        checkpoint("products", "2"),
        checkpoint("", "3"),
    ]
    other = await asyncpg.connect(database_url)
    async with other.transaction():
        await other.execute("LOCK TABLE stripe.customers IN EXCLUSIVE MODE")
        writing = asyncio.create_task(caller.write(resumed, messages))
        await _line_becomes(database, "products", "2")
        assert await entries(database) == {"customers": None, "products": "2", "": None}
        assert not caller.state.source.streams
    await writing
    await other.close()
    assert await entries(database) == {"customers": "1", "products": "2", "": "3"}


async def test_of_two_flushes_of_one_stream_the_last_to_commit_records_both(
    caller: Caller, database: asyncpg.Connection, database_url: str
) -> None:
    resumed = await caller.resume()
    messages = [
        records("customers", customer(1)),
        checkpoint("customers", "1"),
        records("customers", customer(2)),
        checkpoint("customers", "2"),
    ]
    other = await asyncpg.connect(database_url)
    async with other.transaction():
        # Only the first flush waits for this row.
        await other.execute(
            "INSERT INTO stripe.customers (id, _account_id, _raw_data, _last_synced_at) "
            "VALUES ('cus_1', 'acct_1', '{}', now())"
        )
        writing = asyncio.create_task(caller.write(resumed, messages))
        await until(database, "SELECT EXISTS (SELECT FROM stripe.customers WHERE id = 'cus_2')")
        assert (await entries(database))["customers"] is None
    await writing
    await other.close()
    assert (await entries(database))["customers"] == "2"
    assert (await caller.resume()).rewinds == []


async def test_a_unique_index_that_two_flushes_meet_at_stops_neither(
    caller: Caller, database: asyncpg.Connection
) -> None:
    await database.execute("CREATE UNIQUE INDEX ON stripe.customers ((_raw_data ->> 'name')) ")
    messages: list[Message] = []
    for number in range(1, 40):
        messages += [
            records("customers", customer(number, name="the same" if number % 2 else f"{number}")),
            checkpoint("customers", str(number)),
            checkpoint("", str(number)),
        ]
    await caller.sync(*messages)
    assert await entries(database) == {"customers": "39", "": "39", "products": None}


async def test_a_deferred_constraint_between_two_flushes_stops_neither(
    caller: Caller, database: asyncpg.Connection
) -> None:
    await database.execute(
        """
        ALTER TABLE stripe.products ADD COLUMN owner text
            GENERATED ALWAYS AS (_raw_data ->> 'owner') STORED;
        ALTER TABLE stripe.customers ADD UNIQUE (id);
        ALTER TABLE stripe.products ADD FOREIGN KEY (owner) REFERENCES stripe.customers (id)
            DEFERRABLE INITIALLY DEFERRED
        """
    )
    messages: list[Message] = []
    for number in range(1, 20):
        messages += [
            records("customers", customer(number)),
            checkpoint("customers", str(number)),
            records("products", customer(number, owner=f"cus_{number}")),
            checkpoint("products", str(number)),
        ]
    await caller.sync(*messages)
    recorded = await entries(database)
    assert (recorded["customers"], recorded["products"]) == ("19", "19")


async def test_checkpoints_without_rows_are_recorded_while_the_source_idles(
    caller: Caller, database: asyncpg.Connection
) -> None:
    resumed = await caller.resume()
    idle = asyncio.Event()

    async def source() -> AsyncGenerator[Message, None]:
        yield checkpoint("customers", "1")
        yield checkpoint("", "2")
        await idle.wait()

    writing = asyncio.create_task(caller.write(resumed, source()))
    await _line_becomes(database, "", "2")
    idle.set()
    await writing
    assert await entries(database) == {"customers": "1", "": "2", "products": None}


async def test_a_checkpoint_is_not_recorded_before_the_rows_ahead_of_it(
    config: PostgresConfig, database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "MAX_AGE", 3600.0)
    caller = Caller(config, stream(), stream("products"))
    resumed = await caller.resume()
    idle = asyncio.Event()

    async def source() -> AsyncGenerator[Message, None]:
        yield records("customers", customer(1))
        yield checkpoint("customers", "1")
        yield checkpoint("", "1")
        yield checkpoint("products", "1")
        await idle.wait()

    writing = asyncio.create_task(caller.write(resumed, source()))
    await _line_becomes(database, "products", "1")
    assert await entries(database) == {"customers": None, "": None, "products": "1"}
    idle.set()
    await writing
    assert await entries(database) == {"customers": "1", "": "1", "products": "1"}


async def test_a_refused_stream_moves_neither_its_entry_nor_the_shared_one(
    caller: Caller, database: asyncpg.Connection
) -> None:
    await caller.sync(records("customers", customer(1)), checkpoint("customers", "1"))
    await database.execute("DROP TABLE stripe._pipesync_rejected")
    await refuse_with(database, "42P01")
    await database.execute(
        "CREATE TABLE stripe.broken (); DROP TABLE stripe.broken; "
        "CREATE OR REPLACE FUNCTION stripe.refuse_customers() RETURNS trigger LANGUAGE plpgsql "
        "AS $$ BEGIN PERFORM FROM stripe.broken; RETURN NEW; END $$"
    )
    await caller.sync(
        records("customers", customer(2)),
        checkpoint("customers", "2"),
        records("products", customer(1)),
        checkpoint("products", "1"),
        checkpoint("", "1"),
    )
    assert await entries(database) == {"customers": "1", "products": "1", "": None}
    errored = [m.stream_status for m in caller.seen if m.stream_status.HasField("errored")]
    assert [one.stream for one in errored] == ["customers"]


async def test_a_shared_checkpoint_that_leaves_a_failed_stream_out_is_recorded(
    caller: Caller, database: asyncpg.Connection
) -> None:
    failed = Message()
    failed.stream_status.stream = "customers"
    failed.stream_status.errored.error = "made up"
    excluding = checkpoint("", "2")
    excluding.source_state.excluded_streams.append("customers")
    await caller.sync(failed, checkpoint("", "1"), excluding)
    assert (await entries(database))[""] == "2"


@pytest.mark.parametrize("damage", ["DROP TABLE", "TRUNCATE"])
async def test_deleted_entries_end_the_write_and_the_next_request_recovers(
    caller: Caller, database: asyncpg.Connection, damage: str
) -> None:
    await caller.sync(records("customers", customer(1)), checkpoint("customers", "1"))
    resumed = await caller.resume()
    await database.execute(f"{damage} stripe._pipesync_checkpoints")
    with pytest.raises(CheckpointsMoved):
        await caller.write(resumed, [records("customers", customer(2)), checkpoint("customers")])
    assert await database.fetchval("SELECT count(*) FROM stripe.customers") == 1
    again = await caller.resume()
    assert [(rewind.stream, rewind.checkpoint) for rewind in again.rewinds] == [("customers", None)]


@pytest.mark.parametrize("by", ["inputs", "write"])
async def test_rows_of_any_request_make_an_emptied_table_noticed(
    caller: Caller, small_batches: PostgresConfig, database: asyncpg.Connection, by: str
) -> None:
    await caller.sync(checkpoint("customers", "1"))
    if by == "inputs":
        await caller.sync(records("customers", customer(1)), inputs_end(), **INPUTS)
    else:
        await write(small_batches, [stream()], [records("customers", customer(1))])
    await database.execute("TRUNCATE stripe.customers")
    resumed = await caller.resume()
    assert [rewind.stream for rewind in resumed.rewinds] == ["customers"]


async def test_an_empty_stream_stays_as_it_is(caller: Caller) -> None:
    await caller.sync(checkpoint("customers", "1"), checkpoint("products", "1"))
    assert (await caller.resume()).rewinds == []


@pytest.mark.parametrize("by", ["inputs", "write"])
async def test_a_request_that_only_writes_finds_an_emptied_table_first(
    caller: Caller, small_batches: PostgresConfig, database: asyncpg.Connection, by: str
) -> None:
    await caller.sync(records("customers", customer(1)), checkpoint("customers", "1"))
    await database.execute("TRUNCATE stripe.customers")
    if by == "inputs":
        stored = caller.copied()
        resumed = await caller.resume(**INPUTS)
        assert [rewind.stream for rewind in resumed.rewinds] == ["customers"]
        await caller.write(resumed, [records("customers", customer(2)), inputs_end()])
        # The process ended before it stored this state.
        caller.state = stored
    else:
        await write(small_batches, [stream()], [records("customers", customer(2))])
    resumed = await caller.resume()
    assert [(one.stream, one.checkpoint) for one in resumed.rewinds] == [("customers", None)]


async def test_uncommitted_first_rows_keep_the_entries(
    caller: Caller, database: asyncpg.Connection, database_url: str
) -> None:
    await caller.sync(checkpoint("customers", "1"))
    other = await asyncpg.connect(database_url)
    async with other.transaction():
        await other.execute(
            "INSERT INTO stripe.customers (id, _account_id, _raw_data, _last_synced_at) "
            "VALUES ('cus_1', 'acct_1', '{}', now()); "
            "UPDATE stripe._pipesync_checkpoints SET has_rows = true WHERE stream = 'customers'"
        )
        resuming = asyncio.create_task(caller.resume())
        await until(database, BLOCKED)
    assert (await resuming).rewinds == []
    await other.close()


async def test_concurrent_inputs_do_not_disturb_a_sync(caller: Caller) -> None:
    sync = await caller.resume()
    beside = Caller(caller.config, *caller.streams)
    beside.state = caller.copied()
    await beside.sync(records("products", customer(1)), inputs_end(), **INPUTS)
    await caller.write(sync, [records("customers", customer(1)), checkpoint("customers", "1")])
    assert (await caller.resume()).rewinds == []


async def test_text_survives_byte_for_byte_whatever_the_settings(
    caller: Caller, database: asyncpg.Connection
) -> None:
    name = await database.fetchval("SELECT current_database()")
    await database.execute(f'ALTER DATABASE "{name}" SET standard_conforming_strings = off')
    text = '{"a":  "it\'s \\\\ \\u0000 \\\' $1 $$ {} %s -- \\"b\\"", "é": "日本"}'
    message = checkpoint("customers", text)
    message.source_state.stream_schema = "'\\"
    await caller.sync(records("customers", customer(1)), message)
    row = await database.fetchrow(
        "SELECT * FROM stripe._pipesync_checkpoints WHERE stream = 'customers'"
    )
    assert row is not None
    assert (row["checkpoint"], row["stream_schema"]) == (text, "'\\")


async def test_a_checkpoint_with_a_nul_is_refused_in_words(caller: Caller) -> None:
    resumed = await caller.resume()
    written = PostgresDestination().write_resumed(
        caller.config, caller.streams, given(checkpoint("customers", "\0")), resumed
    )
    async with aclosing(written):
        with pytest.raises(Exception, match="NUL"):
            async for _ in written:
                pass
