"""Concurrent deletions and writes of one row, each paused at every step, in either order."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import asyncpg
import pytest

from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.rows.row_locks import lock_script, may_wait_for_each_other
from engine_server.connectors.postgres.schema.tables import table_of
from pipesync.v1.message_pb2 import Message
from tests.engine_server.connectors.postgres.builders import (
    customer,
    records,
    rows_of,
    stream,
    write,
)
from tests.engine_server.connectors.postgres.schemas import set_up
from tests.engine_server.connectors.postgres.sessions import until

# Numbers of the advisory locks that pause a side: at its write, and at its commit.
STEPS = {"write": {"statement": 101, "commit": 102}, "deletion": {"statement": 201, "commit": 202}}
DELETED_AT = 20
# A side is known by its record; a permanent deletion writes to the table of tombstones.
HOLD = """
CREATE FUNCTION stripe.hold() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    step integer := TG_ARGV[0]::integer;
BEGIN
    IF TG_TABLE_NAME = '_pipesync_deleted' OR to_jsonb(NEW) @> '{"_raw_data": {"deleted": true}}'
    THEN
        step := step + 100;
    END IF;
    PERFORM pg_advisory_xact_lock_shared(step);
    RETURN NEW;
END $$;
"""
HOLD_TABLE = """
CREATE TRIGGER hold_statement BEFORE INSERT ON stripe.{table}
    FOR EACH ROW EXECUTE FUNCTION stripe.hold(101);
CREATE CONSTRAINT TRIGGER hold_commit AFTER INSERT ON stripe.{table}
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION stripe.hold(102);
"""


@pytest.fixture
async def holder(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


@asynccontextmanager
async def held(holder: asyncpg.Connection, step: int) -> AsyncIterator[None]:
    await holder.execute("SELECT pg_advisory_lock($1)", step)
    try:
        yield
    finally:
        await holder.execute("SELECT pg_advisory_unlock($1)", step)


async def until_blocked(database: asyncpg.Connection, sessions: int) -> None:
    """Wait until ``count`` sessions wait for another one, also for the end of its transaction."""
    await until(
        database,
        "SELECT count(*) >= $1 FROM pg_stat_activity WHERE datname = current_database() "
        "AND cardinality(pg_blocking_pids(pid)) > 0",
        sessions,
    )


async def until_done_or_blocked(
    database: asyncpg.Connection, task: asyncio.Task[Any], sessions: int
) -> None:
    blocked = asyncio.create_task(until_blocked(database, sessions))
    await asyncio.wait([task, blocked], return_when=asyncio.FIRST_COMPLETED)
    blocked.cancel()
    await asyncio.gather(blocked, return_exceptions=True)


def config_of(database_url: str, delete_mode: str) -> PostgresConfig:
    return PostgresConfig.model_validate({"url": database_url, "delete_mode": delete_mode})


def record_of(side: str, written_at: int) -> Message:
    if side == "write":
        return records("customers", customer(1, name="as it was", at=written_at))
    return records("customers", customer(1, deleted=True, at=DELETED_AT))


@pytest.mark.parametrize("delete_mode", ["hard", "soft"])
@pytest.mark.parametrize("written_at", [DELETED_AT - 10, DELETED_AT, DELETED_AT + 10])
@pytest.mark.parametrize("first", ["write", "deletion"])
@pytest.mark.parametrize("write_held_at", ["statement", "commit"])
@pytest.mark.parametrize("deletion_held_at", ["statement", "commit"])
@pytest.mark.parametrize("released_first", ["write", "deletion"])
async def test_only_records_newer_than_a_deletion_remain(
    database_url: str,
    database: asyncpg.Connection,
    holder: asyncpg.Connection,
    delete_mode: str,
    written_at: int,
    first: str,
    write_held_at: str,
    deletion_held_at: str,
    released_first: str,
) -> None:
    config = config_of(database_url, delete_mode)
    await set_up(config, stream())
    await database.execute(HOLD + HOLD_TABLE.format(table="customers"))
    if delete_mode == "hard":
        await database.execute(HOLD_TABLE.format(table="_pipesync_deleted"))
    held_at = {"write": write_held_at, "deletion": deletion_held_at}
    other = {"write": "deletion", "deletion": "write"}
    tasks: dict[str, asyncio.Task[Any]] = {}
    async with AsyncExitStack() as last, AsyncExitStack() as earlier:
        for side in held_at:
            stack = earlier if side == released_first else last
            await stack.enter_async_context(held(holder, STEPS[side][held_at[side]]))
        for count, side in enumerate((first, other[first]), 1):
            tasks[side] = asyncio.create_task(
                write(config, [stream()], [record_of(side, written_at)])
            )
            await until_blocked(database, count)
        await earlier.aclose()
        await until_done_or_blocked(database, tasks[released_first], 2)
        await last.aclose()
        await asyncio.gather(*tasks.values())
    row = await database.fetchrow("SELECT _raw_data->>'deleted' AS deleted FROM stripe.customers")
    if written_at > DELETED_AT:
        assert row is not None
        assert row["deleted"] is None
    elif delete_mode == "hard":
        assert row is None
    else:
        assert row is not None
        assert row["deleted"] == "true"


async def test_flushes_without_deletions_go_side_by_side_also_where_rows_are_deleted_for_good(
    database_url: str, database: asyncpg.Connection
) -> None:
    config = config_of(database_url, "hard").model_copy(update={"batch_size": 2})
    await set_up(config, stream())
    pages = [records("customers", customer(number), customer(number + 1)) for number in (1, 3)]
    async with database.transaction():
        await database.execute("LOCK TABLE stripe.customers IN EXCLUSIVE MODE")
        writing = asyncio.create_task(write(config, [stream()], pages))
        await until(
            database,
            "SELECT count(*) = 2 FROM pg_locks WHERE locktype = 'relation' AND NOT granted",
        )
    await writing
    assert await database.fetchval("SELECT count(*) FROM stripe.customers") == 4


async def test_writes_that_delete_in_several_tables_never_deadlock(
    database_url: str, database: asyncpg.Connection
) -> None:
    config = config_of(database_url, "hard")
    streams = [stream("customers"), stream("products"), stream("accounts")]
    await set_up(config, *streams)

    async def write_all(order: int) -> None:
        names = ["customers", "products", "accounts"]
        for number in range(10):
            await write(
                config,
                streams,
                [
                    records(name, customer(number, at=number, deleted=number % 2 == order))
                    for name in names[order:] + names[:order]
                ],
            )

    before = await database.fetchval(
        "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    )
    await asyncio.gather(*(write_all(order) for order in (0, 1)))
    assert before == await database.fetchval(
        "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    )


TABLE = table_of(stream(), "stripe")


@pytest.mark.parametrize(
    ("record", "is_exclusive"),
    [
        (b'{"id":"a"}', False),
        (b'{"id":"a","name":"\\u00e9t\\u00e9 \\u003c"}', False),
        (b'{"id":"a","deleted":true}', True),
        (b'{"id":"a","\\u0064eleted":true}', True),
        (b'{"id":"a","d\\u0065lete\\u0064":true}', True),
    ],
)
def test_a_lock_is_exclusive_where_a_record_may_say_that_it_is_deleted(
    record: bytes, is_exclusive: bool
) -> None:
    rows = {"customers": rows_of([b'{"id":"b"}', record])}
    others = {"customers": rows_of([b'{"id":"c"}'])}
    script = lock_script({"customers": TABLE}, rows)
    assert ("pg_advisory_xact_lock(" in script) == is_exclusive
    assert ("pg_advisory_xact_lock_shared(" in script) != is_exclusive
    for one, other in ((rows, others), (others, rows)):
        assert may_wait_for_each_other({"customers": TABLE}, one, other) == is_exclusive


def test_tables_without_tombstones_are_not_locked() -> None:
    table = table_of(stream(newer_than_field=""), "stripe")
    rows = {"customers": rows_of([b'{"id":"b","deleted":true}'])}
    assert not lock_script({"customers": table}, rows)
    assert not may_wait_for_each_other({"customers": table}, rows, rows)
