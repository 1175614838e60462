"""Single steps, run one by one."""

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from google.rpc import code_pb2
from msgspec.structs import replace

from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync.v1.state_pb2 import Eof
from pipesync_client import EngineClient
from pipesync_rpc.errors import RpcError
from service_server.background.heartbeats import Heartbeats
from service_server.configuration.connectors import Connectors
from service_server.engine import Engine
from service_server.errors import SyncInProgress
from service_server.leases.leases import LeaseKeeper
from service_server.lifecycle.context import StepContextLoader
from service_server.lifecycle.executor import StepExecutor
from service_server.lifecycle.machine import Intervals
from service_server.lifecycle.state import LifecycleState
from service_server.lifecycle.steps import Steps
from service_server.metrics import Metrics
from service_server.pipelines.pipelines import Pipelines
from service_server.security.secrets import Vault, parse_keys
from service_server.store import lifecycles, states
from service_server.store.database import Database
from service_server.store.lifecycles import Claim
from service_server.sync.sessions import SyncSessions
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

INTERVALS = Intervals(
    step=timedelta(seconds=10),
    poll=timedelta(seconds=30),
    read=timedelta(hours=1),
    reconcile=timedelta(days=7),
    retry=timedelta(seconds=30),
    max_retry=timedelta(minutes=5),
)
MINUTE = timedelta(minutes=1)


class MemoryInbox:
    """Inbox in memory.

    Attributes:
        pending: Number of pending events.
        error: Error that every call raises; None for none.
        calls: Number of calls.
    """

    def __init__(self, leases: LeaseKeeper) -> None:
        self._leases = leases
        self.pending = 0
        self.error: RpcError | None = None
        self.calls = 0

    async def apply(self, pipeline_id: str) -> int:
        self.calls += 1
        async with self._leases.hold(pipeline_id):
            if self.error is not None:
                raise self.error
            taken = min(self.pending, 2)
            self.pending -= taken
            return taken


class Bench:
    """One pipeline, "first", whose steps a test runs."""

    def __init__(self, pipelines: Pipelines, engine: Engine, database: Database) -> None:
        self.pipelines = pipelines
        self.database = database
        self.leases = LeaseKeeper(database, holder="bench", duration=MINUTE)
        self.inbox = MemoryInbox(self.leases)
        self.executor = StepExecutor(
            contexts=StepContextLoader(pipelines=pipelines, engine=engine, database=database),
            steps=Steps(pipelines=pipelines, engine=engine, intervals=INTERVALS),
            sessions=SyncSessions(
                pipelines=pipelines,
                engine=engine,
                connectors=Connectors(engine),
                database=database,
                leases=self.leases,
                metrics=Metrics(),
                heartbeats=Heartbeats(),
            ),
            intervals=INTERVALS,
            inbox=self.inbox,
        )

    async def claim(self) -> Claim | None:
        async with self.database.connection() as connection:
            claims = await lifecycles.claim(connection, 10, MINUTE)
        return claims[0] if claims else None

    async def run_step(self) -> bool:
        """Run the next step; return whether one was due."""
        claim = await self.claim()
        if claim is not None:
            await self.executor.run_step(claim)
        return claim is not None

    async def run_all_steps(self) -> int:
        """Run steps until none is due, and return their number."""
        count = 0
        while await self.run_step():
            count += 1
        return count

    async def wake(self) -> None:
        async with self.database.connection() as connection:
            await lifecycles.wake(connection, "first")

    async def end_delays(self) -> None:
        async with self.database.connection() as connection:
            kept = await lifecycles.get(connection, "first")
            assert kept is not None
            state = replace(LifecycleState.from_json(kept.state_json), due={})
            query = "UPDATE pipesync.lifecycles SET memory = $1"
            await connection.execute(query, state.to_json())

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


async def test_a_pipeline_takes_one_step_after_another_and_then_waits(
    bench: Bench, engine: ScriptedEngine
) -> None:
    engine.batch = batches = Batches([cut, succeeded])
    assert await bench.run_all_steps() == 3
    assert len(batches.runs) == 2
    assert (await bench.shown()).status == pb.PIPELINE_STATUS_READY
    async with bench.database.connection() as connection:
        next_due = await lifecycles.time_to_next(connection)
    assert next_due is not None
    assert timedelta(0) < next_due <= INTERVALS.poll


async def test_pending_events_are_applied_once_the_pipeline_is_set_up(
    bench: Bench, engine: ScriptedEngine
) -> None:
    engine.batch = batches = Batches([cut, succeeded])
    bench.inbox.pending = 5
    await bench.run_step()
    assert bench.inbox.calls == 0
    await bench.run_step()
    assert bench.inbox.pending == 0
    assert len(batches.runs) == 1
    await bench.run_all_steps()
    bench.inbox.pending = 3
    await bench.wake()
    assert await bench.run_all_steps() == 1
    assert bench.inbox.pending == 0


async def test_events_that_cannot_be_applied_are_reported_and_stop_nothing_else(
    bench: Bench, engine: ScriptedEngine
) -> None:
    engine.batch = batches = Batches([cut, succeeded])
    bench.inbox.error = RpcError("no such table", code=code_pb2.ABORTED, reason="X")
    await bench.run_all_steps()
    assert len(batches.runs) == 2
    shown = await bench.shown()
    assert shown.status == pb.PIPELINE_STATUS_ERROR
    assert shown.status_message.startswith("inbox failed once")
    calls = bench.inbox.calls
    await bench.wake()
    await bench.run_all_steps()
    # A wake does not end the delay after the failure.
    assert bench.inbox.calls == calls
    bench.inbox.error = None
    await bench.end_delays()
    await bench.wake()
    await bench.run_all_steps()
    assert (await bench.shown()).status == pb.PIPELINE_STATUS_READY


async def test_steps_too_short_for_a_page_get_longer_and_the_third_reports_the_remedy(
    bench: Bench, engine: ScriptedEngine
) -> None:
    engine.batch = batches = Batches([empty])
    # The setup and three requests of a run.
    assert await bench.run_all_steps() == 4
    limits = [request.options.time_limit.ToSeconds() for request in batches.runs]
    assert limits == [10, 20, 40]
    shown = await bench.shown()
    assert shown.status == pb.PIPELINE_STATUS_ERROR
    assert shown.status_message.startswith("sync failed once, to be tried again at ")
    assert "no page arrived" in shown.status_message
    assert "--step-seconds" in shown.status_message
    # After the delay the same run continues with the longest limit, and the failure stays.
    batches.script = [empty, empty, empty, cut]
    await bench.end_delays()
    await bench.wake()
    assert await bench.run_all_steps() == 3
    assert [request.options.time_limit.ToSeconds() for request in batches.runs[3:]] == [80] * 3
    assert len({request.options.run_id for request in batches.runs}) == 1
    shown = await bench.shown()
    assert shown.status == pb.PIPELINE_STATUS_ERROR
    assert shown.status_message.startswith("sync failed 2 times in a row")
    batches.script = [cut, succeeded]
    await bench.end_delays()
    await bench.wake()
    await bench.run_all_steps()
    assert (await bench.shown()).status == pb.PIPELINE_STATUS_READY
    assert batches.runs[-1].options.time_limit.ToSeconds() == 10


async def test_polls_too_short_for_a_page_are_reported_and_start_no_run(
    bench: Bench, engine: ScriptedEngine
) -> None:
    engine.batch = batches = Batches([succeeded, empty])
    await bench.run_all_steps()
    assert len(batches.runs) == 1
    await bench.end_delays()
    await bench.wake()
    await bench.run_all_steps()
    assert [request.options.time_limit.ToSeconds() for request in batches.polls] == [10, 20, 40]
    assert len(batches.runs) == 1
    shown = await bench.shown()
    assert shown.status == pb.PIPELINE_STATUS_ERROR
    assert shown.status_message.startswith("poll failed once")
    assert "no page arrived" in shown.status_message
    await bench.end_delays()
    await bench.wake()
    batches.script = [succeeded]
    await bench.run_all_steps()
    assert batches.polls[-1].options.time_limit.ToSeconds() == 80
    assert (await bench.shown()).status == pb.PIPELINE_STATUS_READY


async def test_polls_that_repeat_the_same_events_get_more_time(
    bench: Bench, engine: ScriptedEngine
) -> None:
    engine.batch = batches = Batches([succeeded, *[unaccounted] * 4, succeeded])
    await bench.run_all_steps()
    await bench.end_delays()
    await bench.wake()
    await bench.run_all_steps()
    limits = [request.options.time_limit.ToSeconds() for request in batches.polls]
    assert limits == [10, 20, 40, 80, 80]
    assert (await bench.shown()).status == pb.PIPELINE_STATUS_READY


async def test_a_pipeline_that_another_process_syncs_is_skipped(bench: Bench) -> None:
    claim = await bench.claim()
    assert claim is not None
    async with bench.leases.hold("first"):
        with pytest.raises(SyncInProgress):
            await bench.executor.run_step(claim)


async def test_a_wake_during_a_step_makes_the_next_one_due(
    bench: Bench, engine: ScriptedEngine
) -> None:
    async def batch(request: Request) -> object:
        await bench.wake()
        return succeeded(request)

    engine.batch = batch  # type: ignore[assignment]  # it returns an Eof
    assert await bench.run_step()
    assert await bench.run_step()
    assert await bench.claim() is not None


async def test_a_claim_excludes_others_until_it_lapses(bench: Bench) -> None:
    assert await bench.claim() is not None
    assert await bench.claim() is None
    await bench.wake()
    assert await bench.claim() is not None


async def test_waking_a_due_pipeline_again_writes_nothing(bench: Bench) -> None:
    await bench.claim()
    for _ in range(3):
        await bench.wake()
    async with bench.database.connection() as connection:
        assert await connection.fetchval("SELECT wakes FROM pipesync.lifecycles") == 1


async def test_dead_lettered_events_of_a_step_are_stored_with_its_state(
    bench: Bench, engine: ScriptedEngine
) -> None:
    def dead_letters(request: Request) -> Eof:
        eof = succeeded(request)
        number = eof.ending_state.source.streams["customers"]
        eof.dead_letters.add(
            event_id=f"evt_{number}", event_json=b"{}", attempt_count=5, reason="refused"
        )
        return eof

    engine.batch = batches = Batches([dead_letters])
    # A setup and a run.
    await bench.run_all_steps()
    assert len(batches.runs) == 1
    # A poll.
    await bench.end_delays()
    await bench.wake()
    await bench.run_all_steps()
    async with bench.database.connection() as connection:
        rows = await connection.fetch("SELECT event_id, status FROM pipesync.webhook_events")
        state = await states.get(connection, "first")
    assert {tuple(row) for row in rows} == {("evt_1", 3), ("evt_2", 3)}
    assert state is not None
    assert state.source.streams["customers"] == "2"
