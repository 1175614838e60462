"""Tests for the worker that applies the events in the inbox."""

import asyncio
from contextlib import suppress

import pytest

from pipesync.v1 import engine_service_pb2 as engine_pb
from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync.v1.progress_pb2 import RUN_STATUS_FAILED, RUN_STATUS_SUCCEEDED
from pipesync.v1.state_pb2 import Eof
from pipesync_client import PipelineClient
from pipesync_rpc.errors import RpcError
from service_server.bootstrap import running_service
from service_server.leases.leases import LeaseKeeper
from service_server.settings.service import ServiceSettings
from service_server.store.database import Database
from tests.service_server.scripted_engine import ScriptedEngine
from tests.service_server.webhooks.deliveries import (
    create,
    event,
    event_id,
    hooked,
    ids,
    push,
    sent_ids,
    statuses,
)


async def until(client: PipelineClient, wanted: dict[str, str], *, of: str = "hooked") -> None:
    """Wait until each event has the wanted status."""
    found: dict[str, str] = {}
    try:
        async with asyncio.timeout(15):
            while found != wanted:
                found = await statuses(client, of=of)
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"it stays {found}") from None


async def set_desired_status(
    client: PipelineClient, status: pb.DesiredStatus.ValueType, of: str = "hooked"
) -> None:
    request = pb.UpdatePipelineRequest(pipeline=pb.Pipeline(id=of, desired_status=status))
    request.update_mask.paths.append("desired_status")
    await client.update_pipeline(request)


async def test_an_event_that_arrives_is_applied(
    taking: PipelineClient, engine: ScriptedEngine
) -> None:
    bodies = [event() for _ in range(5)]
    for body in bodies:
        await push(taking, body)
    await until(taking, dict.fromkeys(ids(bodies), "applied"))
    assert [each for batch in sent_ids(engine) for each in batch] == ids(bodies)


async def test_each_pipeline_gets_its_own_events(
    taking: PipelineClient, engine: ScriptedEngine
) -> None:
    stuck = asyncio.Event()

    async def batch(request: engine_pb.PipelineSyncBatchRequest) -> Eof:
        if event_id(request.inputs[0].event_json) == "evt_stuck":
            await stuck.wait()
        return Eof(status=RUN_STATUS_SUCCEEDED)

    engine.batch = batch
    await create(taking, hooked("second"))
    await push(taking, event("evt_stuck"))
    await push(taking, event("evt_free"), to="second")
    await until(taking, {"evt_free": "applied"}, of="second")
    assert await statuses(taking) == {"evt_stuck": "pending"}
    stuck.set()
    await until(taking, {"evt_stuck": "applied"})


async def test_a_paused_pipeline_waits_until_it_is_resumed(
    taking: PipelineClient, engine: ScriptedEngine
) -> None:
    await create(taking, hooked("busy"))
    await set_desired_status(taking, pb.DESIRED_STATUS_PAUSED)
    await push(taking, event("evt_paused"))
    await push(taking, event("evt_other"), to="busy")
    await until(taking, {"evt_other": "applied"}, of="busy")
    assert sent_ids(engine) == [["evt_other"]]
    await set_desired_status(taking, pb.DESIRED_STATUS_ACTIVE)
    await until(taking, {"evt_paused": "applied"})


async def test_the_events_of_a_continuous_pipeline_are_left_to_its_lifecycle(
    taking: PipelineClient, engine: ScriptedEngine, database: Database
) -> None:
    await create(taking, hooked("manual"))
    async with database.connection() as connection:
        await connection.execute(
            "UPDATE pipesync.pipelines SET sync_policy = $1 WHERE id = 'hooked'",
            pb.SYNC_POLICY_CONTINUOUS,
        )
    await push(taking, event("evt_continuous"))
    await push(taking, event("evt_manual"), to="manual")
    await until(taking, {"evt_manual": "applied"}, of="manual")
    assert sent_ids(engine) == [["evt_manual"]]


async def test_events_wait_for_the_end_of_a_sync(
    taking: PipelineClient, database: Database, settings: ServiceSettings
) -> None:
    other = LeaseKeeper(database, holder="other", duration=settings.lease_duration)
    async with other.hold("hooked"):
        await push(taking, event("evt_1"))
        await asyncio.sleep(0.3)
        assert await statuses(taking) == {"evt_1": "pending"}
    await until(taking, {"evt_1": "applied"})


async def test_a_failing_event_is_dead_lettered_and_the_others_are_applied(
    settings: ServiceSettings, engine: ScriptedEngine
) -> None:
    async def batch(request: engine_pb.PipelineSyncBatchRequest) -> Eof:
        if "evt_poison" in [event_id(given.event_json) for given in request.inputs]:
            return Eof(status=RUN_STATUS_FAILED, failure_message="it is poison")
        return Eof(status=RUN_STATUS_SUCCEEDED)

    engine.batch = batch
    impatient = settings.model_copy(update={"webhook_attempts": 2})
    async with running_service(impatient) as service, PipelineClient(service.address) as client:
        await create(client, hooked())
        for body in (event("evt_before"), event("evt_poison"), event("evt_after")):
            await push(client, body)
        await until(
            client,
            {"evt_before": "applied", "evt_poison": "dead_lettered", "evt_after": "applied"},
        )


async def test_events_are_applied_after_an_outage(
    taking: PipelineClient, engine: ScriptedEngine
) -> None:
    failed = asyncio.Event()

    async def batch(_: object) -> Eof:
        failed.set()
        return Eof(status=RUN_STATUS_SUCCEEDED, has_more=True)

    engine.batch = batch
    await push(taking, event("evt_1"))
    await asyncio.wait_for(failed.wait(), 10)

    async def well(_: object) -> Eof:
        return Eof(status=RUN_STATUS_SUCCEEDED)

    engine.batch = well
    await until(taking, {"evt_1": "applied"})


async def test_events_that_were_pending_at_a_shutdown_are_applied_after_the_restart(
    settings: ServiceSettings, engine: ScriptedEngine
) -> None:
    reached = asyncio.Event()

    async def never(_: object) -> Eof:
        reached.set()
        await asyncio.Event().wait()
        raise AssertionError

    engine.batch = never
    short = settings.model_copy(update={"drain_seconds": 0.2})
    async with running_service(short) as service, PipelineClient(service.address) as client:
        await create(client, hooked())
        await push(client, event("evt_1"))
        await asyncio.wait_for(reached.wait(), 10)

    async def well(_: object) -> Eof:
        return Eof(status=RUN_STATUS_SUCCEEDED)

    engine.batch = well
    async with running_service(settings) as service, PipelineClient(service.address) as client:
        await until(client, {"evt_1": "applied"})


async def test_two_services_share_the_work(
    settings: ServiceSettings, engine: ScriptedEngine
) -> None:
    running = 0

    async def batch(_: object) -> Eof:
        nonlocal running
        running += 1
        assert running == 1
        await asyncio.sleep(0.01)
        running -= 1
        return Eof(status=RUN_STATUS_SUCCEEDED)

    engine.batch = batch
    bodies = [event() for _ in range(30)]
    async with (
        running_service(settings) as first,
        running_service(settings) as second,
        PipelineClient(first.address) as one,
        PipelineClient(second.address) as other,
    ):
        await create(one, hooked())
        for number, body in enumerate(bodies):
            await push(one if number % 2 else other, body)
        await until(one, dict.fromkeys(ids(bodies), "applied"))
    assert sorted(each for batch in sent_ids(engine) for each in batch) == sorted(ids(bodies))


@pytest.mark.parametrize("queries", ["LISTEN%", "%"])
async def test_events_are_applied_after_a_loss_of_all_connections(
    taking: PipelineClient, database: Database, queries: str
) -> None:
    async with database.connection() as connection:
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE $1"
            " AND pid <> pg_backend_pid() AND datname = current_database()",
            queries,
        )
    async with asyncio.timeout(10):
        while True:
            # As Stripe would, after a delivery that was not acknowledged.
            with suppress(RpcError):
                await push(taking, event("evt_1"))
                break
    await until(taking, {"evt_1": "applied"})
