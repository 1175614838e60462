"""Recorded checkpoints: the point where a sync continues after tables or states have changed."""

import json
from contextlib import suppress
from typing import Any

import asyncpg
import pytest

from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.destination import PostgresDestination
from engine_server.errors import CheckpointsMoved
from pipesync.v1.message_pb2 import Message
from tests.engine_server.connectors.postgres.builders import customer, records, stream
from tests.engine_server.connectors.postgres.resuming import Caller, inputs_end
from tests.engine_server.connectors.postgres.schemas import set_up, tear_down
from tests.messages import checkpoint

ENTRIES = "SELECT * FROM stripe._pipesync_checkpoints ORDER BY lineage, stream"


@pytest.fixture
def caller(config: PostgresConfig) -> Caller:
    return Caller(config, stream(), stream("products"))


def page(name: str, number: int) -> list[Message]:
    """Return a page with one record, and the checkpoint behind it."""
    return [records(name, customer(number)), checkpoint(name, f'{{"page": {number}}}')]


def everything() -> list[Message]:
    """Return the messages of a whole sync of both streams."""
    return [*page("customers", 1), *page("products", 1), checkpoint("", '{"cursor": 1}')]


async def test_a_current_state_continues(caller: Caller) -> None:
    await caller.sync(*everything())
    stored = caller.copied()
    resumed = await caller.resume()
    assert resumed.rewinds == []
    assert caller.state.source == stored.source
    assert resumed.positions.keys() == {"customers", "products", ""}
    assert resumed.destination == stored.destination
    assert json.loads(resumed.destination).keys() == {"lineage"}


async def test_checkpoints_leave_with_positions_that_count_up(caller: Caller) -> None:
    await caller.sync(*page("customers", 1), *page("customers", 2), *page("products", 1))
    states = [message.source_state for message in caller.seen if message.HasField("source_state")]
    assert [(one.stream, one.position.number) for one in states] == [
        ("customers", 1),
        ("customers", 2),
        ("products", 1),
    ]
    assert len({one.position.epoch for one in states}) == 1


@pytest.mark.parametrize("damage", ["DROP TABLE", "TRUNCATE"])
async def test_a_table_without_its_rows_is_read_from_the_start(
    caller: Caller, database: asyncpg.Connection, damage: str
) -> None:
    await caller.sync(*everything())
    await database.execute(f"{damage} stripe.customers")
    resumed = await caller.resume()
    [rewind] = resumed.rewinds
    assert (rewind.stream, rewind.checkpoint, rewind.is_empty) == ("customers", None, True)
    assert resumed.positions.keys() == {"products", ""}
    await caller.write(resumed, page("customers", 2))
    assert (await caller.resume()).rewinds == []


async def test_a_state_ahead_of_the_database_goes_back_to_the_recorded_checkpoint(
    caller: Caller, database: asyncpg.Connection
) -> None:
    await caller.sync(*everything())
    entries = await database.fetch(ENTRIES)
    await caller.sync(*page("customers", 2), *page("customers", 3))
    # As a restored dump has them.
    await database.execute("TRUNCATE stripe._pipesync_checkpoints")
    parameters = ", ".join(f"${number}" for number, _ in enumerate(entries[0], 1))
    await database.executemany(
        f"INSERT INTO stripe._pipesync_checkpoints VALUES ({parameters})",  # noqa: S608 - numbers only
        [tuple(entry) for entry in entries],
    )
    resumed = await caller.resume()
    assert [(one.stream, one.checkpoint) for one in resumed.rewinds] == [
        ("customers", '{"page": 1}')
    ]
    assert (await caller.resume()).rewinds == []


async def test_an_older_copy_of_the_state_continues_from_its_own_checkpoint(caller: Caller) -> None:
    await caller.sync(*everything())
    older = caller.copied()
    await caller.sync(*page("customers", 2))
    await caller.sync(*page("customers", 3))
    caller.state = older
    resumed = await caller.resume()
    assert resumed.rewinds == []
    assert caller.state.source.streams["customers"] == '{"page": 1}'


async def test_the_later_of_two_requests_fences_the_earlier_off(caller: Caller) -> None:
    await caller.sync(*everything())
    earlier = await caller.resume()
    later = await caller.resume()
    with pytest.raises(CheckpointsMoved):
        await caller.write(earlier, page("customers", 2))
    await caller.write(later, page("customers", 3))
    assert (await caller.resume()).rewinds == []


async def test_checkpoints_without_rows_are_recorded(caller: Caller) -> None:
    await caller.sync(checkpoint("customers"), checkpoint("", "{}"))
    assert (await caller.resume()).rewinds == []


async def test_the_end_of_inputs_is_recorded(caller: Caller) -> None:
    request = {"advanced_streams": [], "advances_shared_checkpoint": False, "pushes_inputs": True}
    await caller.sync(records("customers", customer(1)), inputs_end(), **request)
    first = caller.state.inputs_position.number
    await caller.sync(records("customers", customer(2)), inputs_end(), **request)
    assert caller.state.inputs_position.number > first
    resumed = await caller.resume()
    assert not resumed.inputs_are_lost
    assert resumed.inputs_position == caller.state.inputs_position


async def test_inputs_of_an_abandoned_request_do_not_count_as_those_of_the_next(
    caller: Caller,
) -> None:
    request: dict[str, Any] = {
        "advanced_streams": [],
        "advances_shared_checkpoint": False,
        "pushes_inputs": True,
    }
    await caller.sync(records("customers", customer(1)), inputs_end(), **request)
    for _ in range(8):
        given_up, successor = [await caller.resume(**request) for _ in range(2)]
        # Only the successor's state is stored.
        stored = caller.copied()
        await caller.write(given_up, [records("customers", customer(2)), inputs_end()])
        held, caller.state = caller.state.inputs_position.number, stored
        with suppress(CheckpointsMoved):
            await caller.write(successor, [records("customers", customer(3)), inputs_end()])
            assert caller.state.inputs_position.number > held


async def test_teardown_removes_the_entries(
    caller: Caller, config: PostgresConfig, database: asyncpg.Connection
) -> None:
    await caller.sync(*everything())
    await tear_down(config, stream())
    assert [row["stream"] for row in await database.fetch(ENTRIES)] == ["", "(inputs)", "products"]
    await tear_down(config, *caller.streams)
    assert await database.fetchval("SELECT to_regnamespace('stripe')") is None


async def test_setup_that_creates_a_table_removes_its_entries(
    caller: Caller, config: PostgresConfig, database: asyncpg.Connection
) -> None:
    await caller.sync(*everything())
    await database.execute("DROP TABLE stripe.customers")
    await set_up(config, *caller.streams)
    assert [row["stream"] for row in await database.fetch(ENTRIES)] == ["", "(inputs)", "products"]


async def test_the_destination_keeps_checkpoints(config: PostgresConfig) -> None:
    from engine_server.connectors.protocols import CheckpointKeeper

    assert isinstance(PostgresDestination(), CheckpointKeeper)
