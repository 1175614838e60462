"""Tests for streamed syncs: their stored state, during the sync and at its end."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from datetime import timedelta

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
from service_server.store import leases
from service_server.store.database import Database
from tests.service_server.scripted_engine import ScriptedEngine
from tests.service_server.syncing import (
    checkpoint,
    get,
    runs,
    state,
    stored_state,
    sync,
    then_waits,
    until_free,
    until_stored,
)


@pytest.fixture(autouse=True)
async def first(created: pb.Pipeline) -> pb.Pipeline:
    return created


async def test_a_stream_stores_its_checkpoints_as_they_arrive(
    client: PipelineClient, engine: ScriptedEngine, database: Database
) -> None:
    run = SyncRun(run_id="run")
    run.time_ceiling.FromSeconds(1000)
    progress = Progress(global_state_count=1)
    engine.sync, _ = then_waits(
        Message(sync_run=run),
        checkpoint("one"),
        checkpoint("shared", stream=""),
        Message(progress=progress),
    )
    async with aclosing(sync(client)) as answers:
        received = [await anext(answers) for _ in range(4)]
        assert [answer.message.WhichOneof("payload") for answer in received][:2] == [
            "sync_run",
            "source_state",
        ]
        await until_stored(database, "one")
    await until_free(database)
    stored = (await get(client)).sync_state
    assert stored.source.shared == "shared"
    assert stored.sync_run.time_ceiling == run.time_ceiling
    assert stored.sync_run.progress == progress


async def test_a_checkpoint_resets_the_count_of_empty_requests(
    client: PipelineClient, engine: ScriptedEngine, database: Database
) -> None:
    run = SyncRun(run_id="run", empty_request_count=2)
    run.time_ceiling.FromSeconds(1000)
    engine.sync, _ = then_waits(Message(sync_run=run), checkpoint("one"))
    async with aclosing(sync(client)) as answers:
        await anext(answers)
        await anext(answers)
    stored = await until_stored(database, "one")
    assert stored.sync_run.run_id == "run"
    assert not stored.sync_run.empty_request_count


async def test_a_checkpoint_is_stored_with_the_schema_of_its_stream(
    client: PipelineClient, engine: ScriptedEngine, database: Database
) -> None:
    first = checkpoint("one")
    first.source_state.stream_schema = "abc>abcdef"
    engine.sync, _ = then_waits(first, checkpoint("two"))
    async with aclosing(sync(client)) as answers:
        await anext(answers)
        await anext(answers)
    await until_stored(database, "two")
    stored = (await get(client)).sync_state
    assert stored.stream_schemas == {first.source_state.stream: "abc>abcdef"}
    await until_free(database)


async def test_a_stream_stores_the_ending_state(
    client: PipelineClient, engine: ScriptedEngine, database: Database
) -> None:
    async def script(_: object) -> AsyncGenerator[Message, None]:
        yield checkpoint("one")
        yield Message(eof=Eof(status=RunStatus.RUN_STATUS_SUCCEEDED, ending_state=state("end")))

    engine.sync = script
    received = [answer.message async for answer in sync(client)]
    assert received[-1].HasField("eof")
    assert await stored_state(database) == state("end")
    assert (await get(client)).status == pb.PIPELINE_STATUS_READY


async def test_a_stream_ends_and_is_stored_when_its_caller_disconnects(
    client: PipelineClient, engine: ScriptedEngine, database: Database
) -> None:
    engine.sync, ended = then_waits(checkpoint("one"), checkpoint("two"))
    async with aclosing(sync(client)) as answers:
        await anext(answers)
        await anext(answers)
    await until_stored(database, "two")
    async with asyncio.timeout(5):
        await ended.wait()
    await until_free(database)


async def test_a_stream_that_the_engine_aborts_keeps_its_checkpoints(
    client: PipelineClient, engine: ScriptedEngine, database: Database
) -> None:
    async def script(_: object) -> AsyncGenerator[Message, None]:
        yield checkpoint("one")
        raise RpcError("broken", code=code_pb2.FAILED_PRECONDITION, reason="CONNECTOR_FAILED")

    engine.sync = script
    with pytest.raises(RpcError, match="broken"):
        [_ async for _ in sync(client)]
    assert await stored_state(database) == state("one")
    [run] = await runs(client)
    assert (run.status, run.failure_message) == (RunStatus.RUN_STATUS_FAILED, "broken")
    assert run.HasField("end_time")


async def test_a_service_that_stops_ends_a_stream_at_its_latest_checkpoint(
    settings: ServiceSettings, engine: ScriptedEngine, database: Database
) -> None:
    """The fixture's grace is five seconds."""
    run, progress = SyncRun(run_id="run"), Progress(global_state_count=1)
    engine.sync, ended = then_waits(
        Message(sync_run=run), checkpoint("one"), Message(progress=progress)
    )
    async with AsyncExitStack() as service:
        server = await service.enter_async_context(running_service(settings))
        async with PipelineClient(server.address) as client, aclosing(sync(client)) as answers:
            for _ in range(3):
                await anext(answers)
            async with asyncio.timeout(2):
                stopping = asyncio.create_task(service.aclose())
                [last] = [answer.message async for answer in answers]
                await stopping
                await ended.wait()
    run.progress.CopyFrom(progress)
    reached = state("one")
    reached.sync_run.CopyFrom(run)
    assert (last.eof.status, last.eof.has_more) == (RunStatus.RUN_STATUS_STARTED, True)
    assert last.eof.ending_state == reached
    assert last.eof.run_progress == progress
    assert await stored_state(database) == reached


async def test_the_next_sync_can_begin_as_soon_as_a_stream_has_sent_its_eof(
    client: PipelineClient,
) -> None:
    async with aclosing(sync(client)) as answers:
        async for answer in answers:
            if answer.message.HasField("eof"):
                [_ async for _ in sync(client)]


async def test_a_stream_whose_lease_is_taken_over_ends(
    client: PipelineClient, engine: ScriptedEngine, database: Database
) -> None:
    engine.sync, ended = then_waits(checkpoint("one"))
    async with aclosing(sync(client)) as answers:
        await anext(answers)
        await until_stored(database, "one")
        async with database.connection() as connection:
            await connection.execute("DELETE FROM pipesync.leases")
            await leases.acquire(connection, "first", "thief", timedelta(minutes=1))
        with pytest.raises(RpcError) as error:
            await anext(answers)
    assert error.value.reason == "LEASE_LOST"
    async with asyncio.timeout(5):
        await ended.wait()
