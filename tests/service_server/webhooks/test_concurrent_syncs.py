"""Tests for events that are applied during a sync, and never during the removal of their tables."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import pytest

from pipesync.v1 import engine_service_pb2 as engine_pb
from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync.v1.catalog_pb2 import PipelineConfig, StreamSelection
from pipesync.v1.message_pb2 import Log, Message
from pipesync.v1.progress_pb2 import RUN_STATUS_SUCCEEDED
from pipesync.v1.state_pb2 import CheckpointPosition, Eof, SyncState
from pipesync_client import PipelineClient
from pipesync_rpc.errors import RpcError
from service_server.bootstrap import running_service
from service_server.settings.service import ServiceSettings
from service_server.store import states
from service_server.store.database import Database
from tests.service_server.scripted_engine import DROPPED, ScriptedEngine
from tests.service_server.webhooks.deliveries import (
    create,
    event,
    event_id,
    hooked,
    push,
    sent_ids,
    statuses,
)
from tests.service_server.webhooks.test_worker import set_desired_status, until


class Held:
    """Calls of the engine that wait until the test releases them.

    Attributes:
        log: The beginnings and ends of the calls, in order.
    """

    def __init__(self, engine: ScriptedEngine) -> None:
        self.log: list[str] = []
        self.syncing, self.sync_over = asyncio.Event(), asyncio.Event()
        self.applying, self.events_over = asyncio.Event(), asyncio.Event()
        self.compared: set[str] = set()
        engine.batch = self._batch
        engine.sync = self._simulate
        engine.teardown = self._tear_down

    async def _batch(self, request: engine_pb.PipelineSyncBatchRequest) -> Eof:
        eof = Eof(status=RUN_STATUS_SUCCEEDED, ending_state=request.options.state)
        if not request.inputs:
            self.log.append("sync")
            self.syncing.set()
            await self.sync_over.wait()
            return eof
        ids = [event_id(given.event_json) for given in request.inputs]
        self.log.append("events")
        self.applying.set()
        await self.events_over.wait()
        self.log.append("events over")
        eof.compared_event_ids.extend(sorted(self.compared.intersection(ids)))
        return eof

    async def _simulate(
        self, request: engine_pb.PipelineSyncRequest
    ) -> AsyncGenerator[Message, None]:
        self.log.append("simulation")
        yield Message(log=Log(message="simulated"))
        yield Message(eof=Eof(status=RUN_STATUS_SUCCEEDED))

    async def _tear_down(self) -> AsyncGenerator[Message, None]:
        self.log.append("teardown")
        yield DROPPED


@pytest.fixture
def held(engine: ScriptedEngine) -> Held:
    return Held(engine)


async def sync(client: PipelineClient, **fields: Any) -> Eof:
    request = pb.SyncPipelineBatchRequest(pipeline_id="hooked", **fields)
    return (await client.sync_pipeline_batch(request)).eof


async def tear_down(client: PipelineClient) -> None:
    request = pb.TeardownPipelineRequest(pipeline_id="hooked")
    assert [_ async for _ in client.teardown_pipeline(request)]


async def delete(client: PipelineClient) -> None:
    await client.delete_pipeline(pb.DeletePipelineRequest(pipeline_id="hooked"))


async def pause(client: PipelineClient) -> None:
    await set_desired_status(client, pb.DESIRED_STATUS_PAUSED)


async def update_streams(client: PipelineClient) -> None:
    changed = pb.Pipeline(id="hooked", config=PipelineConfig(streams=[StreamSelection(name="s")]))
    request = pb.UpdatePipelineRequest(pipeline=changed)
    request.update_mask.paths.append("config.streams")
    await client.update_pipeline(request)


async def reset(client: PipelineClient) -> None:
    await sync(client, reset_state=True)


async def simulate(client: PipelineClient) -> None:
    request = pb.SimulateWebhookSyncRequest(pipeline_id="hooked")
    assert [_ async for _ in client.simulate_webhook_sync(request)]


async def test_events_are_applied_while_a_sync_is_under_way(
    taking: PipelineClient, held: Held
) -> None:
    held.events_over.set()
    syncing = asyncio.create_task(sync(taking))
    await held.syncing.wait()
    await push(taking, event("evt_1"))
    await until(taking, {"evt_1": "applied"})
    assert not syncing.done()
    held.sync_over.set()
    await syncing


async def test_a_sync_begins_while_events_are_applied(taking: PipelineClient, held: Held) -> None:
    await push(taking, event("evt_1"))
    await held.applying.wait()
    held.sync_over.set()
    await sync(taking)
    assert held.log == ["events", "sync"]
    held.events_over.set()
    await until(taking, {"evt_1": "applied"})


@pytest.mark.parametrize(
    ("wanted", "logged"),
    [
        (tear_down, "teardown"),
        (delete, "teardown"),
        (simulate, "simulation"),
        (reset, "sync"),
        (pause, ""),
        (update_streams, ""),
    ],
)
async def test_operations_on_the_tables_wait_for_events_that_are_being_applied(
    taking: PipelineClient,
    held: Held,
    wanted: Callable[[PipelineClient], Awaitable[None]],
    logged: str,
) -> None:
    held.sync_over.set()
    await push(taking, event("evt_1"))
    await held.applying.wait()

    async def want() -> None:
        await wanted(taking)
        held.log.append("answered")

    waiting = asyncio.create_task(want())
    # Long enough to see that it waits.
    await asyncio.sleep(0.5)
    assert held.log == ["events"]
    held.events_over.set()
    await waiting
    assert held.log == ["events", "events over", *([logged] if logged else []), "answered"]


async def test_a_simulation_reads_the_pipeline_after_its_wait_for_events(
    taking: PipelineClient, held: Held
) -> None:
    await push(taking, event("evt_1"))
    await held.applying.wait()
    simulating = asyncio.create_task(simulate(taking))
    pausing = asyncio.create_task(pause(taking))
    async with asyncio.timeout(10):
        request = pb.GetPipelineRequest(pipeline_id="hooked")
        paused = pb.DESIRED_STATUS_PAUSED
        while (await taking.get_pipeline(request)).pipeline.desired_status != paused:  # noqa: ASYNC110 - it is stored before it is answered
            await asyncio.sleep(0.02)
    held.events_over.set()
    await pausing
    with pytest.raises(RpcError, match="is paused"):
        await simulating
    assert "simulation" not in held.log


async def test_a_simulation_does_not_create_removed_tables_again(
    taking: PipelineClient, held: Held
) -> None:
    await tear_down(taking)
    with pytest.raises(RpcError, match="set it up or sync it") as error:
        await simulate(taking)
    assert error.value.reason == "PIPELINE_TORN_DOWN"
    assert held.log == ["teardown"]


async def test_events_wait_for_a_simulation(taking: PipelineClient, held: Held) -> None:
    held.events_over.set()
    answers = taking.simulate_webhook_sync(pb.SimulateWebhookSyncRequest(pipeline_id="hooked"))
    await anext(answers)
    await push(taking, event("evt_1"))
    assert [_ async for _ in answers]
    await until(taking, {"evt_1": "applied"})
    assert held.log == ["simulation", "events", "events over"]


@pytest.mark.parametrize("remedy", ["setup", "sync"])
async def test_events_do_not_create_removed_tables_again(
    taking: PipelineClient, held: Held, remedy: str
) -> None:
    held.events_over.set()
    held.sync_over.set()
    await create(taking, hooked("other"))
    await tear_down(taking)
    await push(taking, event("evt_1"))
    await push(taking, event("evt_2"), to="other")
    await until(taking, {"evt_2": "applied"}, of="other")
    assert await statuses(taking) == {"evt_1": "pending"}
    if remedy == "setup":
        async for _ in taking.setup_pipeline(pb.SetupPipelineRequest(pipeline_id="hooked")):
            pass
    else:
        await sync(taking)
    await until(taking, {"evt_1": "applied"})


async def test_events_that_were_pending_at_a_teardown_are_not_applied_after_it(
    taking: PipelineClient, held: Held, engine: ScriptedEngine
) -> None:
    await push(taking, event("evt_1"))
    await held.applying.wait()
    await push(taking, event("evt_2"))
    tearing_down = asyncio.create_task(tear_down(taking))
    await asyncio.sleep(0.1)
    held.events_over.set()
    await tearing_down
    sent = len(sent_ids(engine))
    await create(taking, hooked("other"))
    await push(taking, event("evt_3"), to="other")
    await until(taking, {"evt_3": "applied"}, of="other")
    assert [ids for ids in sent_ids(engine)[sent:] if ids != ["evt_3"]] == []
    assert held.log.index("teardown") > held.log.index("events over")


async def test_compared_events_are_applied_again_when_the_sync_has_ended(
    taking: PipelineClient, held: Held, engine: ScriptedEngine
) -> None:
    held.events_over.set()
    held.compared = {"evt_compared"}
    syncing = asyncio.create_task(sync(taking))
    await held.syncing.wait()
    for name in ("evt_compared", "evt_other"):
        await push(taking, event(name))
    await until(taking, {"evt_compared": "applied", "evt_other": "applied"})
    before = sent_ids(engine)
    held.sync_over.set()
    await syncing
    async with asyncio.timeout(10):
        while sent_ids(engine) == before:  # noqa: ASYNC110 - the engine has no event for it
            await asyncio.sleep(0.02)
    await until(taking, {"evt_compared": "applied", "evt_other": "applied"})
    assert sent_ids(engine)[len(before) :] == [["evt_compared"]]


async def test_no_event_is_repeated_for_a_sync_that_began_after_its_arrival(
    taking: PipelineClient, held: Held, database: Database
) -> None:
    held.compared = {"evt_1"}
    await pause(taking)
    await push(taking, event("evt_1"))
    await set_desired_status(taking, pb.DESIRED_STATUS_ACTIVE)
    await held.applying.wait()
    syncing = asyncio.create_task(sync(taking))
    await held.syncing.wait()
    held.events_over.set()
    await until(taking, {"evt_1": "applied"})
    async with database.connection() as connection:
        assert not await connection.fetchval("SELECT count(*) FROM pipesync.events_to_repeat")
    held.sync_over.set()
    await syncing


async def test_a_repetition_survives_a_restart_and_happens_once(
    settings: ServiceSettings, engine: ScriptedEngine, held: Held, database: Database
) -> None:
    held.events_over.set()
    held.compared = {"evt_1"}
    short = settings.model_copy(update={"drain_seconds": 0.1})
    async with running_service(short) as first, PipelineClient(first.address) as client:
        await create(client, hooked())
        syncing = asyncio.create_task(sync(client))
        await held.syncing.wait()
        await push(client, event("evt_1"))
        await until(client, {"evt_1": "applied"})
    await asyncio.gather(syncing, return_exceptions=True)
    assert sent_ids(engine) == [["evt_1"]]
    async with (
        running_service(settings) as second,
        running_service(settings) as third,
        PipelineClient(second.address) as client,
        PipelineClient(third.address) as other,
    ):
        async with asyncio.timeout(10):
            while sent_ids(engine) == [["evt_1"]]:  # noqa: ASYNC110 - the engine has no event for it
                await asyncio.sleep(0.02)
        await until(client, {"evt_1": "applied"})
        # An event that arrives later is applied later.
        await push(other, event("evt_2"))
        await until(other, {"evt_1": "applied", "evt_2": "applied"})
    assert sent_ids(engine) == [["evt_1"], ["evt_1"], ["evt_2"]]
    async with database.connection() as connection:
        assert not await connection.fetchval("SELECT count(*) FROM pipesync.events_to_repeat")


class Lineages(Held):
    """Calls that begin a lineage of their own if the state that they are sent has none.

    Attributes:
        given: The state of each call with events.
    """

    def __init__(self, engine: ScriptedEngine) -> None:
        super().__init__(engine)
        self.given: list[SyncState] = []
        self._begun = 0

    async def _batch(self, request: engine_pb.PipelineSyncBatchRequest) -> Eof:
        state = SyncState()
        state.CopyFrom(request.options.state)
        if not state.destination:
            self._begun += 1
            state.destination = f"lineage {self._begun}"
            position = CheckpointPosition(epoch=state.destination, number=1)
            state.inputs_position.CopyFrom(position)
        if request.inputs:
            self.given.append(request.options.state)
        beginning = CheckpointPosition()
        beginning.CopyFrom(state.inputs_position)
        state.inputs_position.number += bool(request.inputs)
        eof = await super()._batch(request)
        eof.ending_state.CopyFrom(state)
        eof.beginning_inputs_position.CopyFrom(beginning)
        return eof


@pytest.mark.parametrize("first_to_end", ["sync", "events"])
async def test_events_during_a_sync_without_a_state_are_recorded_in_its_lineage(
    taking: PipelineClient, engine: ScriptedEngine, database: Database, first_to_end: str
) -> None:
    held = Lineages(engine)
    syncing = asyncio.create_task(sync(taking))
    await held.syncing.wait()
    await push(taking, event("evt_1"))
    await held.applying.wait()
    if first_to_end == "events":
        held.events_over.set()
        await until(taking, {"evt_1": "applied"})
    held.sync_over.set()
    await syncing
    held.events_over.set()
    async with asyncio.timeout(10):
        while len(held.given) < 2:  # noqa: ASYNC110 - the engine has no event for it
            await asyncio.sleep(0.02)
    await until(taking, {"evt_1": "applied"})
    assert [state.destination for state in held.given] == ["", "lineage 1"]
    async with database.connection() as connection:
        stored = await states.load(connection, "hooked")
    assert stored.inputs.position == CheckpointPosition(epoch="lineage 1", number=2)
    assert await positions(database) == [("lineage 1", 2)]


async def positions(database: Database) -> list[tuple[str, int]]:
    """Return the positions that events were applied with."""
    async with database.connection() as connection:
        rows = await connection.fetch(
            "SELECT inputs_epoch, inputs_number FROM pipesync.webhook_events ORDER BY arrival"
        )
    return [(row["inputs_epoch"], row["inputs_number"]) for row in rows]
