"""Continuous pipelines of one service, from their creation on."""

import asyncio
import re
from collections.abc import Callable
from itertools import pairwise

import pytest
from google.rpc import code_pb2

from pipesync.v1 import engine_service_pb2 as engine_pb
from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync.v1.catalog_pb2 import StreamSelection
from pipesync.v1.state_pb2 import Eof
from pipesync_client import PipelineClient
from pipesync_rpc.errors import RpcError
from service_server.bootstrap import running_service
from service_server.settings.service import ServiceSettings
from service_server.store.database import Database
from tests.service_server.lifecycle.scripts import (
    Batches,
    Request,
    create,
    cut,
    failed,
    set_desired,
    succeeded,
    update,
)
from tests.service_server.scripted_engine import ScriptedEngine
from tests.service_server.syncing import runs, stored_state
from tests.service_server.watching import has_status, shown

READY = has_status(pb.PIPELINE_STATUS_READY)
ERROR = has_status(pb.PIPELINE_STATUS_ERROR)


def refusing(code: int, message: str) -> Callable[[Request], Eof]:
    def refuse(_: Request) -> Eof:
        raise RpcError(message, code=code, reason="CONNECTOR_FAILED")

    return refuse


async def test_a_new_pipeline_is_set_up_and_backfilled_in_one_run(
    client: PipelineClient, engine: ScriptedEngine, database: Database
) -> None:
    engine.batch = batches = Batches([cut, cut, succeeded])
    await create(client)
    await shown(client, READY)
    assert engine.last(engine_pb.PipelineSetupRequest)
    assert len(batches.runs) == 3
    assert len({request.options.run_id for request in batches.runs}) == 1
    for before, request in pairwise(batches.runs):
        assert (
            request.options.state.source.streams["customers"]
            > (before.options.state.source.streams["customers"])
        )
    stored = await stored_state(database)
    assert stored is not None
    assert stored.source.streams["customers"] == "3"
    [run] = await runs(client)
    assert run.run_id == batches.runs[0].options.run_id
    assert run.HasField("end_time")


async def test_a_ready_pipeline_reads_events_without_another_run(
    client: PipelineClient, engine: ScriptedEngine
) -> None:
    engine.batch = batches = Batches([succeeded])
    await create(client, poll_events=True)
    await batches.until(lambda asked: len(asked.polls) >= 3)
    assert len(batches.runs) == 1
    assert all(request.options.state.source.streams for request in batches.polls)
    assert [run.run_id for run in await runs(client)] == [batches.runs[0].options.run_id]


async def test_a_source_that_does_not_follow_events_is_not_polled(
    client: PipelineClient, engine: ScriptedEngine
) -> None:
    engine.batch = batches = Batches([succeeded])
    await create(client)
    await create(client, "second", poll_events=True)
    await batches.until(lambda asked: len(asked.polls) >= 3)
    assert {"poll_events" in dict(poll.pipeline.source.config) for poll in batches.polls} == {True}


async def test_a_resumed_pipeline_continues_the_same_run(
    client: PipelineClient, engine: ScriptedEngine
) -> None:
    engine.batch = batches = Batches([cut])
    await create(client)
    await batches.until(lambda asked: len(asked.runs) >= 2)
    run_id = batches.runs[0].options.run_id

    def of_first() -> int:
        return sum(request.options.run_id == run_id for request in batches.runs)

    await set_desired(client, pb.DESIRED_STATUS_PAUSED)
    before = of_first()
    # Ten requests of another pipeline show that enough time has passed.
    await create(client, "second")
    others = len(batches.runs) + 10
    await batches.until(lambda asked: len(asked.runs) >= others)
    held_at = of_first()
    assert held_at - before <= 1
    await set_desired(client, pb.DESIRED_STATUS_ACTIVE)
    await batches.until(lambda _: of_first() > held_at + 1)


async def test_a_new_stream_is_set_up_and_read_by_a_run_of_its_own(
    client: PipelineClient, engine: ScriptedEngine
) -> None:
    engine.batch = batches = Batches([succeeded])
    created = await create(client)
    await shown(client, READY)
    created.config.streams.append(StreamSelection(name="prices"))
    await update(client, created, "config.streams")
    await batches.until(lambda asked: len(asked.runs) == 2)
    assert [one.name for one in batches.runs[1].pipeline.streams] == ["prices"]
    assert engine.last(engine_pb.PipelineSetupRequest).pipeline.streams
    assert batches.runs[1].options.run_id != batches.runs[0].options.run_id
    assert batches.runs[1].options.state.source.streams["customers"] == "1"


@pytest.mark.parametrize(
    "fail",
    [
        pytest.param(refusing(code_pb2.ABORTED, "lost its way"), id="by an error"),
        pytest.param(lambda request: failed(request, "lost its way"), id="by its eof"),
    ],
)
async def test_a_failed_run_is_reported_and_retried(
    client: PipelineClient, engine: ScriptedEngine, fail: Callable[[Request], Eof]
) -> None:
    engine.batch = batches = Batches([cut, fail])
    await create(client)
    broken = await shown(client, lambda one: "times in a row" in one.status_message)
    assert broken.status == pb.PIPELINE_STATUS_ERROR
    assert re.fullmatch(
        r"sync failed \d+ times in a row, to be tried again at \S+Z: lost its way",
        broken.status_message,
    )
    batches.script = [cut]
    healed = await shown(client, has_status(pb.PIPELINE_STATUS_BACKFILL))
    assert healed.status_message == ""
    assert len({request.options.run_id for request in batches.runs}) == 1


async def test_a_failed_setup_is_retried_before_anything_is_read(
    client: PipelineClient, engine: ScriptedEngine
) -> None:
    engine.batch = batches = Batches([succeeded])
    engine.setup_error = RpcError("no such role", code=code_pb2.ABORTED, reason="CONNECTION_FAILED")
    await create(client)
    broken = await shown(client, lambda one: "times in a row" in one.status_message)
    assert broken.status == pb.PIPELINE_STATUS_ERROR
    assert broken.status_message.startswith("setup failed")
    assert not batches.asked
    engine.setup_error = None
    await shown(client, READY)


async def test_a_corrected_configuration_is_tried_at_once(
    client: PipelineClient, engine: ScriptedEngine
) -> None:
    wrong = refusing(code_pb2.INVALID_ARGUMENT, "no such stream")
    engine.batch = batches = Batches([wrong, succeeded])
    created = await create(client)
    await shown(client, ERROR)
    await update(client, created, "config.source")
    await shown(client, READY)
    assert len(batches.runs) == 2


async def test_a_reconciling_run_follows_events_that_cannot_be_read(
    client: PipelineClient, engine: ScriptedEngine
) -> None:
    too_old = refusing(code_pb2.FAILED_PRECONDITION, "the cursor is too old")
    engine.batch = batches = Batches([succeeded, too_old, succeeded])
    await create(client, poll_events=True)
    await batches.until(lambda asked: len(asked.runs) == 2 and len(asked.polls) >= 2)
    kinds = ["poll" if one.options.events_only else "run" for one in batches.asked]
    assert kinds[:4] == ["run", "poll", "run", "poll"]
    assert batches.runs[1].options.reconcile
    await shown(client, READY)


async def test_a_manual_sync_between_two_steps_does_not_stop_the_pipeline(
    client: PipelineClient, engine: ScriptedEngine
) -> None:
    engine.batch = batches = Batches([cut])
    await create(client)
    request = pb.SyncPipelineBatchRequest(pipeline_id="first", run_id="mine")
    while True:
        try:
            await client.sync_pipeline_batch(request)
            break
        except RpcError as error:
            assert error.reason == "SYNC_IN_PROGRESS"  # noqa: PT017 - any other is a failure
    place = [one.options.run_id for one in batches.runs].index("mine")
    await batches.until(lambda asked: len(asked.runs) > place + 2)


async def test_a_pipeline_that_is_made_manual_takes_no_further_step(
    client: PipelineClient, engine: ScriptedEngine, database: Database
) -> None:
    engine.batch = batches = Batches([succeeded])
    created = await create(client, poll_events=True)
    await batches.until(lambda asked: len(asked.polls) >= 1)
    created.sync_policy = pb.SYNC_POLICY_MANUAL
    updated = await update(client, created, "sync_policy")
    assert updated.sync_policy == pb.SYNC_POLICY_MANUAL
    async with database.connection() as connection:
        assert not await connection.fetchval("SELECT count(*) FROM pipesync.lifecycles")


async def test_a_service_that_starts_later_runs_due_steps(
    settings: ServiceSettings, engine: ScriptedEngine
) -> None:
    engine.batch = batches = Batches([succeeded])
    idle = settings.model_copy(update={"max_running_pipelines": 0})
    async with running_service(idle) as server, PipelineClient(server.address) as client:
        await create(client)
        assert (await shown(client, lambda _: True)).status == pb.PIPELINE_STATUS_SETUP
    assert not batches.asked
    async with running_service(settings) as server, PipelineClient(server.address) as client:
        await shown(client, READY)


async def test_two_hundred_steps_are_under_way_at_once(
    settings: ServiceSettings, engine: ScriptedEngine
) -> None:
    count = 200
    under_way: set[str] = set()
    all_are = asyncio.Event()

    async def batch(request: Request) -> Eof:
        under_way.add(request.options.run_id)
        if len(under_way) == count:
            all_are.set()
        await all_are.wait()
        return succeeded(request)

    engine.batch = batch
    many = settings.model_copy(
        update={"max_running_pipelines": count, "step_seconds": 60.0, "lease_seconds": 30.0}
    )
    async with running_service(many) as server, PipelineClient(server.address) as client:
        names = [f"pipeline-{number:03}" for number in range(count)]
        await asyncio.gather(*(create(client, name) for name in names))
        async with asyncio.timeout(60):
            await all_are.wait()
        request = pb.ListPipelinesRequest(page_size=1000)
        async with asyncio.timeout(30):
            while True:
                listed = (await client.list_pipelines(request)).pipelines
                if {one.status for one in listed} == {pb.PIPELINE_STATUS_READY}:
                    break
                await asyncio.sleep(0.1)
        assert len(listed) == count
