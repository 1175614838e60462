"""Single turns, taken by hand: what the inbox has is applied first, and wakes are never lost."""

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from google.rpc import code_pb2
from msgspec.structs import replace

from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync.v1.state_pb2 import Eof
from pipesync_client import EngineClient
from pipesync_rpc.errors import RpcError
from service_server.connectors import Connectors
from service_server.engine import Engine
from service_server.errors import SyncInProgress
from service_server.leases import LeaseKeeper
from service_server.lifecycle.machine import Pace
from service_server.lifecycle.memory import Memory
from service_server.lifecycle.situation import Situations
from service_server.lifecycle.steps import Steps
from service_server.lifecycle.turns import Turns
from service_server.pipelines import Pipelines
from service_server.secrets import Vault, parse_keys
from service_server.store import lifecycles, states
from service_server.store.database import Database
from service_server.store.lifecycles import Claim
from tests.service_server.conftest import KEY
from tests.service_server.lifecycle.scripts import (
    Batches,
    Request,
    continuous,
    cut,
    empty,
    succeeded,
    unaccounted,
)
from tests.service_server.scripted_engine import ScriptedEngine

PACE = Pace(
    step=timedelta(seconds=10),
    poll=timedelta(seconds=30),
    read=timedelta(hours=1),
    reconcile=timedelta(days=7),
    retry=timedelta(seconds=30),
    longest_retry=timedelta(minutes=5),
)
MINUTE = timedelta(minutes=1)


class Waiting:
    """An inbox in memory.

    Attributes:
        waiting: How much waits.
        error: Raised instead of applying anything, when set.
        asked: How often anybody asked.
    """

    def __init__(self, leases: LeaseKeeper) -> None:
        self._leases = leases
        self.waiting = 0
        self.error: RpcError | None = None
        self.asked = 0

    async def apply(self, pipeline_id: str) -> int:
        self.asked += 1
        async with self._leases.hold(pipeline_id):
            if self.error is not None:
                raise self.error
            taken = min(self.waiting, 2)
            self.waiting -= taken
            return taken


class Bench:
    """One pipeline, "first", whose turns a test takes."""

    def __init__(self, pipelines: Pipelines, engine: Engine, database: Database) -> None:
        self.pipelines = pipelines
        self.database = database
        self.leases = LeaseKeeper(database, holder="bench", duration=MINUTE)
        self.inbox = Waiting(self.leases)
        self.turns = Turns(
            situations=Situations(pipelines=pipelines, engine=engine, database=database),
            steps=Steps(pipelines=pipelines, engine=engine, database=database, pace=PACE),
            database=database,
            leases=self.leases,
            pace=PACE,
            inbox=self.inbox,
        )

    async def claim(self) -> Claim | None:
        async with self.database.connection() as connection:
            claims = await lifecycles.claim(connection, 10, MINUTE)
        return claims[0] if claims else None

    async def take(self) -> bool:
        """Whether there was a turn to take."""
        claim = await self.claim()
        if claim is not None:
            await self.turns.take(claim)
        return claim is not None

    async def take_all(self) -> int:
        """How many turns there were until nothing was due."""
        count = 0
        while await self.take():
            count += 1
        return count

    async def wake(self) -> None:
        async with self.database.connection() as connection:
            await lifecycles.wake(connection, "first")

    async def end_pauses(self) -> None:
        async with self.database.connection() as connection:
            kept = await lifecycles.get(connection, "first")
            assert kept is not None
            memory = replace(Memory.from_json(kept.memory), due={})
            query = "UPDATE pipesync.lifecycles SET memory = $1"
            await connection.execute(query, memory.to_json())

    async def shown(self) -> pb.Pipeline:
        return await self.pipelines.get("first", pb.PIPELINE_VIEW_BASIC)


@pytest.fixture
async def bench(database: Database, engine_address: str) -> AsyncIterator[Bench]:
    async with EngineClient(engine_address) as client:
        engine = Engine(client, engine_address)
        pipelines = Pipelines(database, engine, Connectors(engine), Vault(parse_keys(KEY)))
        request = pb.CreatePipelineRequest(pipeline=continuous(poll_events=True))
        await pipelines.create(request)
        yield Bench(pipelines, engine, database)


async def test_a_life_takes_a_turn_for_each_step_and_rests_when_nothing_is_due(
    bench: Bench, engine: ScriptedEngine
) -> None:
    engine.batch = batches = Batches([cut, succeeded])
    assert await bench.take_all() == 3
    assert len(batches.runs) == 2
    assert (await bench.shown()).status == pb.PIPELINE_STATUS_READY
    async with bench.database.connection() as connection:
        next_due = await lifecycles.time_to_next(connection)
    assert next_due is not None
    assert timedelta(0) < next_due <= PACE.poll


async def test_what_came_in_is_applied_as_soon_as_the_pipeline_is_set_up(
    bench: Bench, engine: ScriptedEngine
) -> None:
    engine.batch = batches = Batches([cut, succeeded])
    bench.inbox.waiting = 5
    await bench.take()
    assert bench.inbox.asked == 0
    await bench.take()
    assert bench.inbox.waiting == 0
    assert len(batches.runs) == 1
    await bench.take_all()
    bench.inbox.waiting = 3
    await bench.wake()
    assert await bench.take_all() == 1
    assert bench.inbox.waiting == 0


async def test_what_cannot_be_applied_is_shown_tried_again_and_stops_nothing_else(
    bench: Bench, engine: ScriptedEngine
) -> None:
    engine.batch = batches = Batches([cut, succeeded])
    bench.inbox.error = RpcError("no such table", code=code_pb2.ABORTED, reason="X")
    await bench.take_all()
    assert len(batches.runs) == 2
    shown = await bench.shown()
    assert shown.status == pb.PIPELINE_STATUS_ERROR
    assert shown.status_message.startswith("inbox failed once")
    asked = bench.inbox.asked
    await bench.wake()
    await bench.take_all()
    # Its pause goes on, however often the pipeline is woken.
    assert bench.inbox.asked == asked
    bench.inbox.error = None
    await bench.end_pauses()
    await bench.wake()
    await bench.take_all()
    assert (await bench.shown()).status == pb.PIPELINE_STATUS_READY


async def test_steps_too_short_for_a_page_grow_and_the_third_shows_what_to_change(
    bench: Bench, engine: ScriptedEngine
) -> None:
    engine.batch = batches = Batches([empty])
    # The setup, and three requests of a run.
    assert await bench.take_all() == 4
    limits = [request.options.time_limit.ToSeconds() for request in batches.runs]
    assert limits == [10, 20, 40]
    shown = await bench.shown()
    assert shown.status == pb.PIPELINE_STATUS_ERROR
    assert shown.status_message.startswith("sync failed once, to be tried again at ")
    assert "no page arrived" in shown.status_message
    assert "--step-seconds" in shown.status_message
    # The same run goes on once its pause is over, with as much time; and it is no better yet.
    batches.script = [empty, empty, empty, cut]
    await bench.end_pauses()
    await bench.wake()
    assert await bench.take_all() == 3
    assert [request.options.time_limit.ToSeconds() for request in batches.runs[3:]] == [80] * 3
    assert len({request.options.run_id for request in batches.runs}) == 1
    shown = await bench.shown()
    assert shown.status == pb.PIPELINE_STATUS_ERROR
    assert shown.status_message.startswith("sync failed 2 times in a row")
    batches.script = [cut, succeeded]
    await bench.end_pauses()
    await bench.wake()
    await bench.take_all()
    assert (await bench.shown()).status == pb.PIPELINE_STATUS_READY
    assert batches.runs[-1].options.time_limit.ToSeconds() == 10


async def test_polls_too_short_for_a_page_show_it_and_have_no_history_read_again(
    bench: Bench, engine: ScriptedEngine
) -> None:
    engine.batch = batches = Batches([succeeded, empty])
    await bench.take_all()
    assert len(batches.runs) == 1
    await bench.end_pauses()
    await bench.wake()
    await bench.take_all()
    assert [request.options.time_limit.ToSeconds() for request in batches.polls] == [10, 20, 40]
    assert len(batches.runs) == 1
    shown = await bench.shown()
    assert shown.status == pb.PIPELINE_STATUS_ERROR
    assert shown.status_message.startswith("poll failed once")
    assert "no page arrived" in shown.status_message
    await bench.end_pauses()
    await bench.wake()
    batches.script = [succeeded]
    await bench.take_all()
    assert batches.polls[-1].options.time_limit.ToSeconds() == 80
    assert (await bench.shown()).status == pb.PIPELINE_STATUS_READY


async def test_polls_that_apply_the_same_events_again_and_again_get_more_time(
    bench: Bench, engine: ScriptedEngine
) -> None:
    engine.batch = batches = Batches([succeeded, *[unaccounted] * 4, succeeded])
    await bench.take_all()
    await bench.end_pauses()
    await bench.wake()
    await bench.take_all()
    limits = [request.options.time_limit.ToSeconds() for request in batches.polls]
    assert limits == [10, 20, 40, 80, 80]
    assert (await bench.shown()).status == pb.PIPELINE_STATUS_READY


async def test_a_pipeline_that_somebody_else_syncs_is_left_alone(bench: Bench) -> None:
    claim = await bench.claim()
    assert claim is not None
    async with bench.leases.hold("first"):
        with pytest.raises(SyncInProgress):
            await bench.turns.take(claim)


async def test_who_wakes_a_pipeline_in_mid_step_has_it_look_again(
    bench: Bench, engine: ScriptedEngine
) -> None:
    async def batch(request: Request) -> object:
        await bench.wake()
        return succeeded(request)

    engine.batch = batch  # type: ignore[assignment]  # it is an Eof
    assert await bench.take()
    assert await bench.take()
    assert await bench.claim() is not None


async def test_a_claim_keeps_others_away_until_it_lapses(bench: Bench) -> None:
    assert await bench.claim() is not None
    assert await bench.claim() is None
    await bench.wake()
    assert await bench.claim() is not None


async def test_waking_again_what_is_due_writes_nothing(bench: Bench) -> None:
    await bench.claim()
    for _ in range(3):
        await bench.wake()
    async with bench.database.connection() as connection:
        assert await connection.fetchval("SELECT wakes FROM pipesync.lifecycles") == 1


async def test_events_that_a_step_gave_up_are_stored_with_its_state(
    bench: Bench, engine: ScriptedEngine
) -> None:
    def gives_up(request: Request) -> Eof:
        eof = succeeded(request)
        number = eof.ending_state.source.streams["customers"]
        eof.dead_letters.add(
            event_id=f"evt_{number}", event_json=b"{}", attempt_count=5, reason="refused"
        )
        return eof

    engine.batch = batches = Batches([gives_up])
    # A setup and a run.
    await bench.take_all()
    assert len(batches.runs) == 1
    # A poll.
    await bench.end_pauses()
    await bench.wake()
    await bench.take_all()
    async with bench.database.connection() as connection:
        rows = await connection.fetch("SELECT event_id, status FROM pipesync.webhook_events")
        state = await states.get(connection, "first")
    assert {tuple(row) for row in rows} == {("evt_1", 3), ("evt_2", 3)}
    assert state is not None
    assert state.source.streams["customers"] == "2"
