"""Warnings about streams with new fields, and the rereads that resolve them."""

from collections.abc import AsyncIterator

import pytest
from google.rpc import code_pb2

from pipesync.v1.catalog_pb2 import StreamSelection
from pipesync.v1.message_pb2 import Log, Message
from pipesync.v1.state_pb2 import Eof, SyncState
from pipesync_rpc.errors import RpcError
from tests.engine_server.engine import ScriptedEngine, scripted_engine
from tests.messages import stream, struct

DATASET = {name: [[f'{{"id":"{name}{n}"}}'.encode()] for n in range(3)] for name in ("a", "b")}


@pytest.fixture
async def engine() -> AsyncIterator[ScriptedEngine]:
    async with scripted_engine() as one:
        one.holds(DATASET)
        upgrade(one, "id")
        yield one


def upgrade(engine: ScriptedEngine, *fields: str) -> None:
    """Set the fields of stream "a"; "b" always has one."""
    engine.source.streams = [
        stream(name, json_schema=struct({"properties": {one: {"type": "string"} for one in have}}))
        for name, have in (("a", fields), ("b", ("id",)))
    ]


def warnings(messages: list[Message]) -> list[str]:
    return [one.log.message for one in messages if one.log.level == Log.LEVEL_WARN]


def eof_of(messages: list[Message]) -> Eof:
    return messages[-1].eof


async def test_every_sync_warns_of_outdated_streams_until_they_are_read_again(
    engine: ScriptedEngine,
) -> None:
    first = await engine.sync(run_id="1")
    assert (warnings(first), list(eof_of(first).outdated_streams)) == ([], [])
    state = eof_of(first).ending_state
    upgrade(engine, "id", "name")
    for run_id in ("2", "3"):
        told = await engine.sync(run_id=run_id, state=state)
        [sentence] = warnings(told)
        assert "were added since these streams were read: a; call setup" in sentence
        # The run comes first.
        assert [one.WhichOneof("payload") for one in told[:2]] == ["sync_run", "log"]
        assert told[1].emitted_by == "engine"
        assert list(eof_of(told).outdated_streams) == ["a"]
        state = eof_of(told).ending_state
    again = await engine.sync(run_id="4", state=state, reread_outdated=True)
    assert list(eof_of(again).outdated_streams) == []
    assert list(eof_of(again).renewed_streams) == ["a"]
    assert engine.source.requests[-1].state.streams.keys() == {"b"}
    last = await engine.sync(run_id="5", state=eof_of(again).ending_state)
    assert (warnings(last), list(eof_of(last).renewed_streams)) == ([], [])


async def test_an_interrupted_reread_is_continued_by_any_later_sync(
    engine: ScriptedEngine,
) -> None:
    state = (await engine.batch()).ending_state
    upgrade(engine, "id", "name")
    cut = await engine.batch(run_id="again", state=state, reread_outdated=True, state_limit=1)
    assert (cut.has_more, list(cut.outdated_streams)) == (True, ["a"])
    other = await engine.sync(run_id="other", state=cut.ending_state, state_limit=1)
    [sentence] = warnings(other)
    assert "they are being read again" in sentence
    assert list(eof_of(other).outdated_streams) == ["a"]
    end = await engine.batch(run_id="last", state=eof_of(other).ending_state)
    assert (list(end.outdated_streams), list(end.renewed_streams)) == ([], ["a"])
    assert (
        engine.destination.committed["a"]
        == [record for page in DATASET["a"] for record in page] * 2
    )


async def test_a_repeated_request_to_reread_continues(engine: ScriptedEngine) -> None:
    state = (await engine.batch()).ending_state
    upgrade(engine, "id", "name")
    for run_id in ("1", "2", "3"):
        eof = await engine.batch(run_id=run_id, state=state, reread_outdated=True, state_limit=1)
        state = eof.ending_state
    assert len(engine.destination.committed["a"]) == 6


async def test_a_stream_is_outdated_only_by_its_selected_fields(
    engine: ScriptedEngine,
) -> None:
    upgrade(engine, "id", "tax")
    some = [StreamSelection(name="a", fields=["id"])]
    state = (await engine.batch(streams=some)).ending_state
    upgrade(engine, "id", "tax", "name")
    assert not (await engine.batch(streams=some, state=state)).outdated_streams
    more = [StreamSelection(name="a", fields=["id", "tax"])]
    assert list((await engine.batch(streams=more, state=state)).outdated_streams) == ["a"]


async def test_a_state_without_entries_counts_as_current(
    engine: ScriptedEngine,
) -> None:
    state = SyncState()
    state.source.streams.update({"a": '{"pages": 3}', "b": '{"pages": 1}'})
    upgrade(engine, "id", "name")
    eof = await engine.batch(state=state)
    assert (list(eof.outdated_streams), sorted(eof.ending_state.stream_schemas)) == ([], ["a", "b"])
    upgrade(engine, "id", "name", "tax")
    assert list((await engine.batch(state=eof.ending_state)).outdated_streams) == ["a"]


async def test_events_and_inputs_do_not_change_the_entries(engine: ScriptedEngine) -> None:
    state = (await engine.batch()).ending_state
    upgrade(engine, "id", "name")
    eof = await engine.batch(state=state, events_only=True)
    assert eof.ending_state.stream_schemas == state.stream_schemas
    assert not eof.outdated_streams


async def test_rereading_needs_a_request_that_reads_history(engine: ScriptedEngine) -> None:
    with pytest.raises(RpcError) as refused:
        await engine.batch(events_only=True, reread_outdated=True)
    assert refused.value.code == code_pb2.INVALID_ARGUMENT
    assert [one.field for one in refused.value.field_violations] == ["options.reread_outdated"]
