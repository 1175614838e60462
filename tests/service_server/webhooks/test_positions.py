"""Tests for the position of applied events, and for the replay of lost ones."""

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
from service_server.pruning import prune_events
from service_server.store import states
from service_server.store.database import Database
from service_server.store.states import StoredState
from tests.service_server.scripted_engine import ScriptedEngine
from tests.service_server.webhooks.applying import Batch, meanwhile, words
from tests.service_server.webhooks.conftest import InboxHarness
from tests.service_server.webhooks.deliveries import event

LATER = timedelta(0)


def at(number: int, epoch: str = "e") -> CheckpointPosition:
    return CheckpointPosition(epoch=epoch, number=number)


class Destination:
    """A destination that records the position of its inputs.

    Attributes:
        position: The position of the last input that it holds.
        found: Further fields that the next calls report.
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


async def apply(harness: InboxHarness, count: int = 1) -> None:
    """Apply events one by one, each with its own position."""
    for _ in range(count):
        await harness.receive(event())
        await harness.applier.apply("hooked")


async def numbers(database: Database) -> list[int | None]:
    async with database.connection() as connection:
        rows = await connection.fetch(
            "SELECT inputs_number FROM pipesync.webhook_events ORDER BY arrival"
        )
    return [row["inputs_number"] for row in rows]


async def test_events_are_marked_with_the_position_that_is_stored_with_them(
    harness: InboxHarness, database: Database, destination: Destination, engine: ScriptedEngine
) -> None:
    await apply(harness, 2)
    assert await numbers(database) == [2, 3]
    kept = await stored(database)
    assert (kept.inputs.position, kept.inputs.replayable) == (at(3), at(1))
    assert kept.state is not None
    assert kept.state.inputs_position == at(3)
    await apply(harness)
    options = engine.last(engine_pb.PipelineSyncBatchRequest).options
    assert (options.state.inputs_position, options.replayable_inputs) == (at(3), at(1))


async def test_only_lost_events_are_applied_again(
    harness: InboxHarness, database: Database, destination: Destination
) -> None:
    await apply(harness, 4)
    destination.position = at(3, "f")
    destination.found = [Eof(lost_inputs=LostInputs(held=at(3)))]
    await apply(harness)
    assert await numbers(database) == [2, 3, 5, 5, 4]
    assert set(await words(database)) == {"applied"}
    kept = await stored(database)
    assert (kept.inputs.position, kept.inputs.replayable) == (at(5, "f"), at(1))


async def test_all_events_of_another_epoch_are_applied_again(
    harness: InboxHarness, database: Database, destination: Destination
) -> None:
    await apply(harness, 2)
    destination.position = at(3, "f")
    destination.found = [Eof(lost_inputs=LostInputs(held=at(3)))]
    await apply(harness)
    destination.position = at(3, "g")
    # A backup of another epoch, whose numbers cannot be compared with this store's.
    destination.found = [Eof(lost_inputs=LostInputs(held=at(3, "e")))]
    await apply(harness)
    assert await numbers(database) == [2, 3, 5, 4]
    destination.found = [Eof(lost_inputs=LostInputs(held=at(9, "unknown")))]
    await apply(harness)
    assert await numbers(database) == [7, 7, 7, 7, 6]


async def test_inputs_that_a_reread_covers_stay_applied_and_begin_another_series(
    harness: InboxHarness, database: Database, destination: Destination
) -> None:
    await apply(harness, 2)
    destination.position = at(1, "f")
    covered = LostInputs(held=at(1), covered_by_reread=True)
    rewound = RewoundStream(stream="customers", from_start=True, reason="events are missing")
    destination.found = [Eof(lost_inputs=covered, rewound_streams=[rewound])]
    await apply(harness)
    assert set(await words(database)) == {"applied"}
    kept = await stored(database)
    assert kept.inputs.series == 2
    assert (kept.inputs.position, kept.inputs.replayable) == (at(2, "f"), at(1, "f"))


async def test_pruning_advances_the_first_replayable_position(
    harness: InboxHarness, database: Database, destination: Destination
) -> None:
    await apply(harness, 3)
    assert await prune_events(database, timedelta(days=1)) == 0
    assert (await stored(database)).inputs.replayable == at(1)
    assert await prune_events(database, LATER) == 3
    assert (await stored(database)).inputs.replayable == at(4)


async def test_pruned_events_of_an_earlier_series_do_not_advance_the_position(
    harness: InboxHarness, database: Database, destination: Destination
) -> None:
    await apply(harness, 3)
    async with database.connection() as connection:
        await states.delete(connection, "hooked")
    destination.position = at(1, "f")
    await apply(harness)
    assert await prune_events(database, LATER) == 4
    assert (await stored(database)).inputs.replayable == at(2, "f")


async def test_the_next_call_compares_again_after_a_lost_event_was_pruned(
    harness: InboxHarness, database: Database, destination: Destination, engine: ScriptedEngine
) -> None:
    await apply(harness, 3)

    async def batch(request: PipelineSyncBatchRequest) -> Eof:
        await prune_events(database, LATER)
        destination.position = at(2, "f")
        destination.found = [Eof(lost_inputs=LostInputs(held=at(2)))]
        return await destination(request)

    engine.batch = batch
    with pytest.raises(SyncInProgress):
        await apply(harness)
    kept = await stored(database)
    assert (kept.inputs.position, kept.inputs.replayable) == (at(4), at(4))
    assert await words(database) == ["pending"]


async def test_a_position_that_a_sync_moved_concurrently_stays(
    harness: InboxHarness, database: Database, destination: Destination, engine: ScriptedEngine
) -> None:
    await apply(harness)
    moved: Batch = meanwhile(
        database,
        "UPDATE pipesync.inputs SET epoch = 'f'",
        status=RUN_STATUS_SUCCEEDED,
        lost_inputs=LostInputs(held=at(1)),
    )
    engine.batch = moved
    with pytest.raises(SyncInProgress):
        await apply(harness)
    assert (await stored(database)).inputs.position == at(2, "f")
    assert "pending" in await words(database)


async def test_a_failed_call_stores_the_state_that_the_next_sync_resumes_from(
    harness: InboxHarness, database: Database, destination: Destination
) -> None:
    before = SyncState()
    before.source.streams["customers"] = "9"
    async with database.connection() as connection:
        await states.put(connection, "hooked", before)
    rewound = RewoundStream(stream="customers", from_start=True, reason="its table is gone")
    failed = Eof(status=RUN_STATUS_FAILED, failure_message="broken", rewound_streams=[rewound])
    destination.found = [failed]
    await harness.receive(event())
    with pytest.raises(Exception, match="broken"):
        await harness.applier.apply("hooked")
    kept = await stored(database)
    assert kept.state is not None
    assert kept.state.destination
    shown = await harness.pipelines.get("hooked", pb.PIPELINE_VIEW_BASIC)
    assert shown.status == pb.PIPELINE_STATUS_BACKFILL
    assert "customers again: its table is gone" in shown.status_message


async def simulate(client: PipelineClient) -> None:
    request = pb.SimulateWebhookSyncRequest(pipeline_id="hooked")
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
