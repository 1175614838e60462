"""Tests for watches: they yield the latest state on every replica, also after database restarts."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing

import pytest
from google.rpc import code_pb2

from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync.v1.message_pb2 import Message
from pipesync.v1.progress_pb2 import Progress, RunStatus
from pipesync.v1.state_pb2 import Eof, SyncRun
from pipesync_client import PipelineClient
from pipesync_rpc.errors import RpcError
from service_server.bootstrap import running_service
from service_server.settings.service import ServiceSettings
from service_server.store import pipelines, runs
from service_server.store.database import Database
from tests.postgres import PostgresCluster
from tests.service_server.conftest import pipeline
from tests.service_server.scripted_engine import ScriptedEngine
from tests.service_server.store.test_runs import NOON, run
from tests.service_server.syncing import sync, then_waits
from tests.service_server.watching import has_status, shown

REQUEST = pb.WatchPipelineRequest(pipeline_id="first")


async def set_progress(database: Database, count: int) -> None:
    async with database.connection() as connection:
        await runs.put(connection, run("run", NOON, Progress(global_state_count=count)))


async def test_a_watcher_receives_the_pipeline_now_and_after_changes(
    client: PipelineClient, created: pb.Pipeline, engine: ScriptedEngine
) -> None:
    async with asyncio.timeout(20), aclosing(client.watch_pipeline(REQUEST)) as answers:
        assert (await anext(answers)).pipeline == created
        engine.sync, _ = then_waits(
            Message(sync_run=SyncRun(run_id="run")),
            Message(progress=Progress(global_state_count=1)),
        )
        async with aclosing(sync(client)) as syncing:
            await anext(syncing)
            seen = (await anext(answers)).pipeline
            while not seen.progress.global_state_count:
                seen = (await anext(answers)).pipeline
            assert seen.status == pb.PIPELINE_STATUS_BACKFILL

    async def ends(_: object) -> AsyncGenerator[Message, None]:
        yield Message(eof=Eof(status=RunStatus.RUN_STATUS_SUCCEEDED))

    engine.sync = ends
    watching = asyncio.create_task(shown(client, has_status(pb.PIPELINE_STATUS_READY)))
    while True:
        try:
            [_ async for _ in sync(client)]
            break
        except RpcError as error:
            assert error.reason == "SYNC_IN_PROGRESS"  # noqa: PT017 - any other is a failure
    await watching


async def test_a_change_by_one_replica_reaches_every_watcher_of_another(
    client: PipelineClient, created: pb.Pipeline, settings: ServiceSettings
) -> None:
    async with running_service(settings) as server, PipelineClient(server.address) as other:
        paused = has_status(pb.PIPELINE_STATUS_PAUSED)
        watching = [asyncio.create_task(shown(other, paused)) for _ in range(50)]
        await shown(other, lambda _: True)
        created.desired_status = pb.DESIRED_STATUS_PAUSED
        update = pb.UpdatePipelineRequest(pipeline=created)
        update.update_mask.paths.append("desired_status")
        await client.update_pipeline(update)
        await asyncio.gather(*watching)


async def test_many_changes_are_few_updates_with_the_last_one_among_them(
    client: PipelineClient, created: pb.Pipeline, database: Database
) -> None:
    async with asyncio.timeout(30), aclosing(client.watch_pipeline(REQUEST)) as answers:
        await anext(answers)
        began = time.monotonic()
        for count in range(1, 301):
            await set_progress(database, count)
        updates = 0
        async for answer in answers:
            updates += 1
            if answer.pipeline.progress.global_state_count == 300:
                break
        assert updates <= 2 + (time.monotonic() - began) * 5


async def test_the_watch_of_a_deleted_pipeline_ends_with_not_found(
    client: PipelineClient, created: pb.Pipeline
) -> None:
    async with asyncio.timeout(20), aclosing(client.watch_pipeline(REQUEST)) as answers:
        await anext(answers)
        await client.delete_pipeline(pb.DeletePipelineRequest(pipeline_id="first"))
        with pytest.raises(RpcError) as error:
            [_ async for _ in answers]
    assert error.value.code == code_pb2.NOT_FOUND


async def test_a_watch_without_a_pipeline_is_refused(client: PipelineClient) -> None:
    with pytest.raises(RpcError) as error:
        await shown(client, lambda _: True)
    assert error.value.reason == "PIPELINE_NOT_FOUND"


async def test_a_watch_survives_a_restart_of_the_database(
    client: PipelineClient,
    created: pb.Pipeline,
    database: Database,
    postgres_cluster: PostgresCluster,
) -> None:
    async with asyncio.timeout(40), aclosing(client.watch_pipeline(REQUEST)) as answers:
        await anext(answers)
        await asyncio.to_thread(postgres_cluster.restart)
        await until_there(database)
        async with database.connection() as connection:
            await pipelines.set_status(connection, "first", pb.PIPELINE_STATUS_ERROR, "why")
        async for answer in answers:
            if answer.pipeline.status_message == "why":
                break


async def until_there(database: Database) -> None:
    while True:
        try:
            async with database.connection() as connection:
                await connection.execute("SELECT 1")
        except RpcError:
            await asyncio.sleep(0.05)
        else:
            return


async def test_a_service_that_stops_ends_its_watches_at_once(
    settings: ServiceSettings, database: Database
) -> None:
    async with AsyncExitStack() as service:
        server = await service.enter_async_context(running_service(settings))
        async with PipelineClient(server.address) as client:
            await client.create_pipeline(pb.CreatePipelineRequest(pipeline=pipeline()))
            async with aclosing(client.watch_pipeline(REQUEST)) as answers:
                await anext(answers)
                # The fixture's grace is five seconds.
                async with asyncio.timeout(3):
                    stopping = asyncio.create_task(service.aclose())
                    with pytest.raises(RpcError) as error:
                        await anext(answers)
                    await stopping
    assert error.value.reason == "SERVICE_STOPPING"
