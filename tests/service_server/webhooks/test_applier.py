"""Tests for the applier: events are applied in order, and none is lost or blocks others."""

import asyncio
from collections.abc import Awaitable
from datetime import timedelta

import pytest
from google.rpc import code_pb2

from pipesync.v1 import engine_service_pb2 as engine_pb
from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync.v1.progress_pb2 import (
    RUN_STATUS_FAILED,
    RUN_STATUS_STARTED,
    RUN_STATUS_SUCCEEDED,
    ConnectionStatus,
)
from pipesync.v1.state_pb2 import Eof, SyncState
from pipesync_rpc.errors import RpcError
from service_server.errors import (
    ConnectionFailed,
    EngineUnavailable,
    LeaseLost,
    PipelineBeingDeleted,
    PipelineNotFound,
    PipelinePaused,
    StoreUnavailable,
    SyncInProgress,
)
from service_server.leases.leases import LeaseKeeper
from service_server.store import leases as lease_table
from service_server.store import pipelines, states
from service_server.store.database import Database
from service_server.webhooks import applier
from tests.service_server.scripted_engine import ScriptedEngine
from tests.service_server.webhooks.applying import (
    LEASE_TAKEN_OVER,
    Batch,
    answers,
    kept,
    meanwhile,
    refuses,
    words,
)
from tests.service_server.webhooks.conftest import MOST_ATTEMPTS, InboxHarness
from tests.service_server.webhooks.deliveries import event, event_id, ids, sent_ids


async def test_events_are_sent_unchanged_in_the_order_of_their_arrival(
    harness: InboxHarness, engine: ScriptedEngine, database: Database
) -> None:
    bodies = [event(created=1_700_000_000 - number) for number in range(20)]
    await harness.receive(*bodies)
    assert await harness.applier.apply("hooked") == 20
    [request] = [one for one in engine.requests if getattr(one, "inputs", None)]
    assert [one.event_json for one in request.inputs] == bodies
    assert await words(database) == 20 * ["applied"]
    assert await harness.applier.apply("hooked") == 0


async def test_many_events_are_sent_in_batches(
    harness: InboxHarness, engine: ScriptedEngine
) -> None:
    small = [event() for _ in range(510)]
    large = [event(padding="x" * 900_000) for _ in range(6)]
    await asyncio.gather(*(harness.receive(body) for body in small))
    await harness.receive(*large)
    assert await harness.applier.apply("hooked") == 516
    first, second, third = sent_ids(engine)
    assert len(first) == 500
    assert {*first, *second} >= set(ids(small))
    assert second[10:] + third == ids(large)
    assert len(third) >= 2


async def test_the_stored_state_is_sent_and_stays_unchanged(
    harness: InboxHarness, engine: ScriptedEngine, database: Database
) -> None:
    before = SyncState()
    before.source.streams["customers"] = '{"cursor": 1}'
    async with database.connection() as connection:
        await states.put(connection, "hooked", before)
    await harness.receive(event())
    await harness.applier.apply("hooked")
    assert engine.last(engine_pb.PipelineSyncBatchRequest).options.state == before
    async with database.connection() as connection:
        assert await states.get(connection, "hooked") == before


async def test_the_count_of_empty_requests_is_not_sent_with_events(
    harness: InboxHarness, engine: ScriptedEngine, database: Database
) -> None:
    before = SyncState()
    before.source.streams["customers"] = '{"cursor": 1}'
    before.sync_run.run_id = "run"
    before.sync_run.empty_request_count = 2
    async with database.connection() as connection:
        await states.put(connection, "hooked", before)
    await harness.receive(event())
    await harness.applier.apply("hooked")
    sent = engine.last(engine_pb.PipelineSyncBatchRequest).options.state
    assert not sent.sync_run.empty_request_count
    assert sent.sync_run.run_id == "run"
    async with database.connection() as connection:
        assert await states.get(connection, "hooked") == before


async def test_one_applier_runs_at_a_time(harness: InboxHarness, engine: ScriptedEngine) -> None:
    await harness.receive(event())
    async with harness.leases.hold("hooked"):
        with pytest.raises(SyncInProgress):
            await harness.applier.apply("hooked")
    assert sent_ids(engine) == []


async def test_a_sync_waits_for_the_end_of_a_turn(
    harness: InboxHarness, engine: ScriptedEngine
) -> None:
    begun, over = asyncio.Event(), asyncio.Event()

    async def batch(_: object) -> Eof:
        begun.set()
        await over.wait()
        return Eof(status=RUN_STATUS_SUCCEEDED)

    async def hold() -> None:
        async with harness.leases.hold("hooked"):
            held.set()

    held = asyncio.Event()
    engine.batch = batch
    await harness.receive(event())
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(harness.applier.apply("hooked"))
        await begun.wait()
        tasks.create_task(hold())
        await asyncio.sleep(0.3)
        assert not held.is_set()
        over.set()
    assert held.is_set()


async def test_a_paused_or_deleted_pipeline_applies_nothing(
    harness: InboxHarness, engine: ScriptedEngine, database: Database
) -> None:
    await harness.receive(event())
    paused = pb.Pipeline(id="hooked", desired_status=pb.DESIRED_STATUS_PAUSED)
    request = pb.UpdatePipelineRequest(pipeline=paused)
    request.update_mask.paths.append("desired_status")
    await harness.pipelines.update(request)
    with pytest.raises(PipelinePaused):
        await harness.applier.apply("hooked")
    assert sent_ids(engine) == []
    assert await words(database) == ["pending"]
    async with database.connection() as connection:
        await connection.execute("DELETE FROM pipesync.pipelines")
    assert await harness.applier.apply("hooked") == 0


async def test_a_pipeline_that_is_being_deleted_applies_nothing(
    harness: InboxHarness, engine: ScriptedEngine, database: Database
) -> None:
    await harness.receive(event())
    async with database.connection() as connection:
        await pipelines.mark_deleted(connection, "hooked")
    with pytest.raises(PipelineBeingDeleted):
        await harness.applier.apply("hooked")
    assert sent_ids(engine) == []
    assert await words(database) == ["pending"]


OUTAGES: dict[str, tuple[Batch, type[RpcError]]] = {
    "failed connection": (
        answers(
            status=RUN_STATUS_FAILED,
            request_progress={
                "connection_status": {
                    "status": ConnectionStatus.STATUS_FAILED,
                    "message": "no route to Stripe",
                }
            },
        ),
        ConnectionFailed,
    ),
    "too short a limit": (
        answers(
            status=RUN_STATUS_STARTED, has_more=True, limit_message="the destination was too slow"
        ),
        EngineUnavailable,
    ),
    "stopping engine": (answers(status=RUN_STATUS_STARTED, has_more=True), EngineUnavailable),
}


@pytest.mark.parametrize("outage", OUTAGES)
async def test_an_outage_is_no_failed_attempt_of_any_event(
    harness: InboxHarness, engine: ScriptedEngine, database: Database, outage: str
) -> None:
    engine.batch, raised = OUTAGES[outage]
    await harness.receive(event(), event())
    for _ in range(MOST_ATTEMPTS + 1):
        with pytest.raises(raised):
            await harness.applier.apply("hooked")
    # The batch was not split.
    assert {len(batch) for batch in sent_ids(engine)} == {2}
    assert list((await kept(database)).values()) == 2 * [("pending", 0, "")]
    engine.batch = refuses()
    assert await harness.applier.apply("hooked") == 2


async def test_events_that_exceed_the_lease_are_sent_in_halves(
    harness: InboxHarness,
    engine: ScriptedEngine,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(applier, "_BATCH_TIME", timedelta(seconds=1))
    leases = LeaseKeeper(database, holder="test", duration=timedelta(seconds=1))

    async def slow(request: engine_pb.PipelineSyncBatchRequest) -> Eof:
        if len(request.inputs) == 1:
            return Eof(status=RUN_STATUS_SUCCEEDED)
        await asyncio.sleep(0.6)
        return Eof(status=RUN_STATUS_STARTED, has_more=True)

    engine.batch = slow
    await harness.receive(event(), event())
    assert await harness.another_applier(leases=leases).apply("hooked") == 2
    assert [len(batch) for batch in sent_ids(engine)] == [2, 1, 1]
    assert await words(database) == ["applied", "applied"]


async def test_the_deadline_of_the_engine_is_before_the_end_of_the_lease(
    harness: InboxHarness, engine: ScriptedEngine, database: Database
) -> None:
    time_left: list[timedelta] = []

    async def watched(request: engine_pb.PipelineSyncBatchRequest) -> Eof:
        async with database.connection() as connection:
            holder = await lease_table.get_holder(
                connection, "hooked", lease_table.LeaseKind.EVENTS
            )
        assert holder is not None
        time_left.append(holder.time_left)
        return Eof(status=RUN_STATUS_SUCCEEDED)

    engine.batch = watched
    await harness.receive(event())
    assert await harness.applier.apply("hooked") == 1
    assert engine.seconds_to_deadline is not None
    assert 5 < engine.seconds_to_deadline < time_left[0].total_seconds()


@pytest.mark.parametrize(
    "code", [code_pb2.INVALID_ARGUMENT, code_pb2.FAILED_PRECONDITION, code_pb2.RESOURCE_EXHAUSTED]
)
async def test_a_refused_call_is_no_failed_attempt_of_any_event(
    harness: InboxHarness, engine: ScriptedEngine, database: Database, code: int
) -> None:
    await harness.receive(event(), event())
    engine.error = RpcError("not with this configuration", code=code, reason="SOME")
    with pytest.raises(RpcError, match="not with this configuration"):
        await harness.applier.apply("hooked")
    assert list((await kept(database)).values()) == 2 * [("pending", 0, "")]


async def test_an_event_that_arrives_during_a_turn_waits_for_the_next_one(
    harness: InboxHarness, engine: ScriptedEngine, database: Database
) -> None:
    late = event()

    async def batch(request: engine_pb.PipelineSyncBatchRequest) -> Eof:
        if event_id(request.inputs[0].event_json) != event_id(late):
            await harness.receive(late)
        return Eof(status=RUN_STATUS_SUCCEEDED)

    engine.batch = batch
    early = event()
    await harness.receive(early)
    for expected in ([early], [late]):
        assert await harness.applier.apply("hooked") == 1
        assert sent_ids(engine)[-1] == ids(expected)


@pytest.mark.parametrize("place", ["before the engine", "in the engine", "behind the engine"])
async def test_an_applier_that_is_cancelled_anywhere_loses_no_event(
    harness: InboxHarness, engine: ScriptedEngine, database: Database, place: str
) -> None:
    reached, going_on = asyncio.Event(), asyncio.Event()
    bodies = [event(), event()]
    await harness.receive(*bodies)

    async def batch(_: object) -> Eof:
        if place != "behind the engine":
            reached.set()
            await going_on.wait()
        return Eof(status=RUN_STATUS_SUCCEEDED)

    engine.batch = batch
    if place == "before the engine":
        async with database.transaction() as connection:
            # The wait for the lease blocks here.
            await connection.execute("LOCK TABLE pipesync.applier_leases")
            await _cut(harness, after=waiting_for_a_lock(database))
    elif place == "in the engine":
        await _cut(harness, after=reached.wait())
    else:
        async with database.transaction() as connection:
            # The engine has answered, and the store of the outcome blocks here.
            await connection.execute("LOCK TABLE pipesync.webhook_events IN SHARE MODE")
            await _cut(harness, after=waiting_for_a_lock(database))
        assert len(sent_ids(engine)) == 1
    assert await words(database) == ["pending", "pending"]
    going_on.set()
    engine.batch = refuses()
    async with asyncio.timeout(20):
        while True:
            try:
                assert await harness.another_applier().apply("hooked") == 2
                break
            except SyncInProgress:
                await asyncio.sleep(0.1)
    assert sent_ids(engine)[-1] == ids(bodies)
    assert await words(database) == ["applied", "applied"]


async def _cut(harness: InboxHarness, *, after: Awaitable[object]) -> None:
    applying = asyncio.create_task(harness.applier.apply("hooked"))
    await after
    applying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await applying


async def waiting_for_a_lock(database: Database) -> int:
    """Return the process id of a session that waits for a lock, once there is one."""
    async with asyncio.timeout(10):
        while True:
            async with database.connection() as connection:
                number: int | None = await connection.fetchval(
                    "SELECT pid FROM pg_stat_activity"
                    " WHERE wait_event_type = 'Lock' AND datname = current_database()"
                )
            if number is not None:
                return number
            await asyncio.sleep(0.02)


async def test_an_applier_that_lost_its_lease_marks_no_event(
    harness: InboxHarness, engine: ScriptedEngine, database: Database
) -> None:
    engine.batch = meanwhile(database, LEASE_TAKEN_OVER, status=RUN_STATUS_SUCCEEDED)
    await harness.receive(event())
    with pytest.raises(LeaseLost):
        await harness.applier.apply("hooked")
    assert await words(database) == ["pending"]


async def test_an_event_that_could_not_be_marked_is_applied_again(
    harness: InboxHarness, engine: ScriptedEngine, database: Database
) -> None:
    body = event()
    await harness.receive(body)
    async with database.transaction() as connection:
        await connection.execute("LOCK TABLE pipesync.webhook_events IN SHARE MODE")
        applying = asyncio.create_task(harness.applier.apply("hooked"))
        waiting = await waiting_for_a_lock(database)
        await connection.execute("SELECT pg_terminate_backend($1)", waiting)
        with pytest.raises(StoreUnavailable):
            await applying
    assert await words(database) == ["pending"]
    assert await harness.applier.apply("hooked") == 1
    assert sent_ids(engine) == [ids([body]), ids([body])]


async def test_a_missing_pipeline_has_nothing_to_apply(harness: InboxHarness) -> None:
    assert await harness.applier.apply("absent") == 0


async def test_a_pipeline_that_is_deleted_during_a_turn_is_reported_as_not_found(
    harness: InboxHarness, engine: ScriptedEngine, database: Database
) -> None:
    engine.batch = meanwhile(
        database,
        "DELETE FROM pipesync.pipelines",
        status=RUN_STATUS_FAILED,
        failure_message="broken",
    )
    await harness.receive(event(), event())
    with pytest.raises(PipelineNotFound):
        await harness.applier.apply("hooked")
