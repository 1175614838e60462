"""Tests that a process that is stopped past its lease stores nothing when it continues."""

import asyncio
import os
import signal
from collections.abc import AsyncGenerator

import pytest

from pipesync.v1 import engine_service_pb2 as engine_pb
from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync.v1.message_pb2 import Message
from pipesync.v1.progress_pb2 import RunStatus
from pipesync.v1.state_pb2 import Eof
from pipesync_client import PipelineClient
from pipesync_rpc.errors import RpcError
from service_server.settings.service import ServiceSettings
from service_server.store import leases
from service_server.store.database import Database
from tests.service_server.replicas import replica
from tests.service_server.scripted_engine import ScriptedEngine
from tests.service_server.syncing import checkpoint, runs, state, stored_state, sync, sync_batch


async def until_expired(database: Database) -> None:
    async with asyncio.timeout(20):
        while True:
            async with database.connection() as connection:
                holder = await leases.get_holder(connection, "first")
            if holder is None or not holder.time_left:
                return
            await asyncio.sleep(0.05)


async def collect(client: PipelineClient) -> None:
    [_ async for _ in sync(client)]


@pytest.mark.parametrize("rpc", ["batch", "stream"])
async def test_a_holder_that_is_stopped_past_its_lease_stores_nothing(
    rpc: str,
    settings: ServiceSettings,
    client: PipelineClient,
    created: pb.Pipeline,
    engine: ScriptedEngine,
    database: Database,
) -> None:
    asked, answered, cancelled = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def stale_batch(_: engine_pb.PipelineSyncBatchRequest) -> Eof:
        asked.set()
        await answered.wait()
        return Eof(status=RunStatus.RUN_STATUS_SUCCEEDED, ending_state=state("stale"))

    async def stale_stream(_: engine_pb.PipelineSyncRequest) -> AsyncGenerator[Message, None]:
        asked.set()
        await answered.wait()
        try:
            yield checkpoint("stale")
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async def good(_: engine_pb.PipelineSyncBatchRequest) -> Eof:
        return Eof(status=RunStatus.RUN_STATUS_SUCCEEDED, ending_state=state("good"))

    engine.batch, engine.sync = stale_batch, stale_stream
    async with replica(settings) as stopped:
        work = sync_batch(stopped.client) if rpc == "batch" else collect(stopped.client)
        stale = asyncio.create_task(work)
        async with asyncio.timeout(20):
            await asked.wait()
        os.kill(stopped.process.pid, signal.SIGSTOP)
        try:
            with pytest.raises(RpcError) as turned_away:
                await sync_batch(client)
            assert turned_away.value.reason == "SYNC_IN_PROGRESS"
            assert f":{stopped.process.pid} since 2" in turned_away.value.message
            assert turned_away.value.retry_delay is not None
            await until_expired(database)
            engine.batch = good
            await sync_batch(client)
            assert await stored_state(database) == state("good")
            # The engine's messages are buffered until the holder continues.
            answered.set()
        finally:
            os.kill(stopped.process.pid, signal.SIGCONT)
        with pytest.raises(RpcError) as error:
            await asyncio.wait_for(stale, 20)
        assert error.value.reason == "LEASE_LOST"
        if rpc == "stream":
            async with asyncio.timeout(5):
                await cancelled.wait()
        assert await stored_state(database) == state("good")
        assert len(await runs(client)) == 1


async def test_a_batch_is_cancelled_at_the_engine_when_its_lease_is_lost(
    client: PipelineClient, created: pb.Pipeline, engine: ScriptedEngine, database: Database
) -> None:
    asked, cancelled = asyncio.Event(), asyncio.Event()

    async def batch(_: engine_pb.PipelineSyncBatchRequest) -> Eof:
        asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return Eof()

    engine.batch = batch
    syncing = asyncio.create_task(sync_batch(client))
    async with asyncio.timeout(20):
        await asked.wait()
        async with database.connection() as connection:
            await connection.execute("DELETE FROM pipesync.leases")
        with pytest.raises(RpcError) as error:
            await syncing
        await cancelled.wait()
    assert error.value.reason == "LEASE_LOST"
