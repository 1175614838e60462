"""Each end of a connection detects that the other one is stuck."""

import asyncio
import os
import signal
import sys

import grpc
import pytest

from pipesync.v1.engine_service_pb2 import (
    ListConnectorsRequest,
    PipelineSyncBatchRequest,
    PipelineSyncRequest,
)
from pipesync.v1.engine_service_pb2_grpc import EngineServiceStub
from pipesync_rpc import channel
from pipesync_server import server as server_module
from tests.pipesync_server.scripted_engine import engine_server, scripted_engine
from tests.processes import running

CALLER = """
import asyncio, sys
from pipesync.v1.engine_service_pb2 import PipelineSyncRequest
from pipesync_client import EngineClient

async def call():
    async with EngineClient(sys.argv[1]) as client:
        async for _ in client.pipeline_sync(PipelineSyncRequest()):
            pass

asyncio.run(call())
"""


async def test_the_calls_of_a_stuck_caller_are_cancelled() -> None:
    engine = scripted_engine()
    async with engine_server(engine, silence=1.0) as server:
        caller = await asyncio.create_subprocess_exec(
            sys.executable, "-c", CALLER, server.address, stderr=asyncio.subprocess.DEVNULL
        )
        try:
            async with asyncio.timeout(30):
                await engine.entered.wait()
            # A live caller that waits silently is left alone.
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(engine.closed.wait(), 2.5)
            os.kill(caller.pid, signal.SIGSTOP)
            async with asyncio.timeout(10):
                await engine.closed.wait()
        finally:
            caller.kill()
            await caller.wait()


async def test_a_call_may_be_silent_while_both_ends_are_alive(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Both twenty times as fast: gRPC pings at most once a second.
    for module, name in (
        (channel, "grpc.keepalive_time_ms"),
        (server_module, "grpc.http2.min_ping_interval_without_data_ms"),
    ):
        options = dict(module._OPTIONS)
        options[name] = int(options[name]) // 20
        monkeypatch.setattr(module, "_OPTIONS", tuple(options.items()))
    engine = scripted_engine()
    async with (
        engine_server(engine) as server,
        channel.open_channel(server.address) as opened,
    ):
        call = EngineServiceStub(opened).PipelineSync(PipelineSyncRequest())
        answers = call.__aiter__()
        assert (await anext(answers)).message.log.message == "first"
        silent = asyncio.ensure_future(anext(answers))
        # More than four pings.
        done, _ = await asyncio.wait([silent], timeout=6)
        assert not done
        engine.released.set()
        assert (await silent).message.log.message == "last"


async def test_a_stuck_server_is_abandoned(monkeypatch: pytest.MonkeyPatch) -> None:
    hasty = {"grpc.keepalive_time_ms": 500, "grpc.http2.ping_timeout_ms": 500}
    assert hasty.keys() <= dict(channel._OPTIONS).keys()
    options = tuple((name, hasty.get(name, value)) for name, value in channel._OPTIONS)
    monkeypatch.setattr(channel, "_OPTIONS", options)
    async with (
        running("engine_server", "--listen", "127.0.0.1:0") as server,
        channel.open_channel(server.address) as opened,
    ):
        stub = EngineServiceStub(opened)
        await stub.ListConnectors(ListConnectorsRequest())
        os.kill(server.pid, signal.SIGSTOP)
        try:
            async with asyncio.timeout(10):
                with pytest.raises(grpc.aio.AioRpcError) as error:
                    await stub.PipelineSyncBatch(PipelineSyncBatchRequest())
        finally:
            os.kill(server.pid, signal.SIGCONT)
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE
