"""The position with which events are applied, and what is applied again when they are lost."""

from datetime import timedelta
from typing import Any

import pytest

from pipesync.v1 import engine_service_pb2 as engine_pb
from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync.v1.engine_service_pb2 import PipelineSyncBatchRequest
from pipesync.v1.message_pb2 import Message
from pipesync.v1.progress_pb2 import RUN_STATUS_FAILED, RUN_STATUS_SUCCEEDED
from pipesync.v1.state_pb2 import (
    CheckpointPosition,
    Eof,
    LostInputs,
    Resumption,
    RewoundStream,
    SyncState,
)
from pipesync_client import PipelineClient
from service_server.errors import SyncInProgress
from service_server.store import states
from service_server.store.database import Database
from service_server.store.states import StoredState
from service_server.webhooks.pruning import prune
from tests.service_server.scripted_engine import ScriptedEngine
from tests.service_server.webhooks.applying import Batch, meanwhile, words
from tests.service_server.webhooks.conftest import Parts
from tests.service_server.webhooks.deliveries import event

LATER = timedelta(0)


def at(number: int, epoch: str = "e") -> CheckpointPosition:
    return CheckpointPosition(epoch=epoch, number=number)


class Destination:
    """A destination that records where its inputs are.

    Attributes:
        position: Of the last that it holds.
        found: What the next calls report besides.
    """

    def __init__(self) -> None:
        self.position = at(1)
        self.found: list[Eof] = []

    async def __call__(self, request: PipelineSyncBatchRequest) -> Eof:
        eof = Eof(status=RUN_STATUS_SUCCEEDED, ending_state=request.options.state)
        eof.ending_state.destination = '{"lineage": "l"}'
        if self.found:
            eof.MergeFrom(self.found.pop(0))
        eof.beginning_inputs_position.CopyFrom(self.position)
        self.position.number += 1
        eof.ending_state.inputs_position.CopyFrom(self.position)
        return eof


@pytest.fixture
def destination(engine: ScriptedEngine) -> Destination:
    made = Destination()
    engine.batch = made
    return made


async def stored(database: Database) -> StoredState:
    async with database.connection() as connection:
        return await states.load(connection, "hooked")


async def apply(parts: Parts, count: int = 1) -> None:
    """Applies events one by one: each under a position of its own."""
    for _ in range(count):
        await parts.take(event())
        await parts.applier.apply("hooked")


async def numbers(database: Database) -> list[int | None]:
    async with database.connection() as connection:
        rows = await connection.fetch(
            "SELECT inputs_number FROM pipesync.webhook_events ORDER BY arrival"
        )
    return [row["inputs_number"] for row in rows]


async def test_events_are_marked_with_the_position_that_is_stored_with_them(
    parts: Parts, database: Database, destination: Destination, engine: ScriptedEngine
) -> None:
    await apply(parts, 2)
    assert await numbers(database) == [2, 3]
    kept = await stored(database)
    assert (kept.inputs.position, kept.inputs.replayable) == (at(3), at(1))
    assert kept.state is not None
    assert kept.state.inputs_position == at(3)
    await apply(parts)
    options = engine.last(engine_pb.PipelineSyncBatchRequest).options
    assert (options.state.inputs_position, options.replayable_inputs) == (at(3), at(1))


async def test_lost_events_are_applied_again_and_those_that_are_held_are_not(
    parts: Parts, database: Database, destination: Destination
) -> None:
    await apply(parts, 4)
    destination.position = at(3, "f")
    destination.found = [Eof(lost_inputs=LostInputs(held=at(3)))]
    await apply(parts)
    assert await numbers(database) == [2, 3, 5, 5, 4]
    assert set(await words(database)) == {"applied"}
    kept = await stored(database)
    assert (kept.inputs.position, kept.inputs.replayable) == (at(5, "f"), at(1))


async def test_of_another_epoch_than_the_one_that_is_held_all_are_applied_again(
    parts: Parts, database: Database, destination: Destination
) -> None:
    await apply(parts, 2)
    destination.position = at(3, "f")
    destination.found = [Eof(lost_inputs=LostInputs(held=at(3)))]
    await apply(parts)
    destination.position = at(3, "g")
    # A backup of a time that this store never saw: numbers of other epochs mean nothing there.
    destination.found = [Eof(lost_inputs=LostInputs(held=at(3, "e")))]
    await apply(parts)
    assert await numbers(database) == [2, 3, 5, 4]
    destination.found = [Eof(lost_inputs=LostInputs(held=at(9, "unknown")))]
    await apply(parts)
    assert await numbers(database) == [7, 7, 7, 7, 6]


async def test_inputs_that_a_reread_covers_stay_applied_and_begin_another_series(
    parts: Parts, database: Database, destination: Destination
) -> None:
    await apply(parts, 2)
    destination.position = at(1, "f")
    covered = LostInputs(held=at(1), covered_by_reread=True)
    rewound = RewoundStream(stream="customers", from_start=True, reason="events are missing")
    destination.found = [Eof(lost_inputs=covered, rewound_streams=[rewound])]
    await apply(parts)
    assert set(await words(database)) == {"applied"}
    kept = await stored(database)
    assert kept.inputs.series == 2
    assert (kept.inputs.position, kept.inputs.replayable) == (at(2, "f"), at(1, "f"))


async def test_pruning_moves_up_what_can_be_replayed(
    parts: Parts, database: Database, destination: Destination
) -> None:
    await apply(parts, 3)
    assert await prune(database, timedelta(days=1)) == 0
    assert (await stored(database)).inputs.replayable == at(1)
    assert await prune(database, LATER) == 3
    assert (await stored(database)).inputs.replayable == at(4)


async def test_events_of_an_earlier_series_move_up_nothing(
    parts: Parts, database: Database, destination: Destination
) -> None:
    await apply(parts, 3)
    async with database.connection() as connection:
        await states.delete(connection, "hooked")
    destination.position = at(1, "f")
    await apply(parts)
    assert await prune(database, LATER) == 4
    assert (await stored(database)).inputs.replayable == at(2, "f")


async def test_a_lost_event_that_is_pruned_meanwhile_has_the_next_call_compare_again(
    parts: Parts, database: Database, destination: Destination, engine: ScriptedEngine
) -> None:
    await apply(parts, 3)

    async def batch(request: PipelineSyncBatchRequest) -> Eof:
        await prune(database, LATER)
        destination.position = at(2, "f")
        destination.found = [Eof(lost_inputs=LostInputs(held=at(2)))]
        return await destination(request)

    engine.batch = batch
    with pytest.raises(SyncInProgress):
        await apply(parts)
    kept = await stored(database)
    assert (kept.inputs.position, kept.inputs.replayable) == (at(4), at(4))
    assert await words(database) == ["pending"]


async def test_a_position_that_a_sync_moved_meanwhile_stays(
    parts: Parts, database: Database, destination: Destination, engine: ScriptedEngine
) -> None:
    await apply(parts)
    moved: Batch = meanwhile(
        database,
        "UPDATE pipesync.inputs SET epoch = 'f'",
        status=RUN_STATUS_SUCCEEDED,
        lost_inputs=LostInputs(held=at(1)),
    )
    engine.batch = moved
    with pytest.raises(SyncInProgress):
        await apply(parts)
    assert (await stored(database)).inputs.position == at(2, "f")
    assert "pending" in await words(database)


async def test_a_call_that_failed_stores_where_the_next_sync_goes_on_from(
    parts: Parts, database: Database, destination: Destination
) -> None:
    before = SyncState()
    before.source.streams["customers"] = "9"
    async with database.connection() as connection:
        await states.put(connection, "hooked", before)
    rewound = RewoundStream(stream="customers", from_start=True, reason="its table is gone")
    failed = Eof(status=RUN_STATUS_FAILED, failure_message="broken", rewound_streams=[rewound])
    destination.found = [failed]
    await parts.take(event())
    with pytest.raises(Exception, match="broken"):
        await parts.applier.apply("hooked")
    kept = await stored(database)
    assert kept.state is not None
    assert kept.state.destination
    shown = await parts.pipelines.get("hooked", pb.PIPELINE_VIEW_BASIC)
    assert shown.status == pb.PIPELINE_STATUS_BACKFILL
    assert "customers again: its table is gone" in shown.status_message


async def simulate(client: PipelineClient) -> None:
    request = pb.SimulateWebhookSyncRequest(id="hooked")
    async for _ in client.simulate_webhook_sync(request):
        pass


async def test_simulated_events_cannot_be_replayed(
    taking: PipelineClient, engine: ScriptedEngine, database: Database
) -> None:
    def state(number: int) -> SyncState:
        made = SyncState(destination='{"lineage": "l"}')
        made.inputs_position.CopyFrom(at(number))
        return made

    async def script(_: Any) -> Any:
        yield Message(resumption=Resumption(state=state(1)))
        yield Message(eof=Eof(status=RUN_STATUS_SUCCEEDED, ending_state=state(2)))

    engine.sync = script
    await simulate(taking)
    kept = await stored(database)
    assert (kept.inputs.position, kept.inputs.replayable) == (at(2), at(2))
    assert kept.state is not None
    assert kept.state.destination
