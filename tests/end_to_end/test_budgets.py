"""Limits of callers without a token, by a server's defaults: they shut no other caller out."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync.v1.engine_service_pb2 import ListConnectorsRequest
from pipesync_client import EngineClient, PipelineClient
from pipesync_rpc.channel import DIRECT
from pipesync_server.tokens import hash_token
from tests.processes import ServerProcess, running

TOKEN = "known"
ENVIRONMENT = {"PIPESYNC_TOKEN_HASHES": hash_token(TOKEN)}
SERVING = health_pb2.HealthCheckResponse.SERVING
CHECK = "/grpc.health.v1.Health/Check"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"


@pytest.fixture(params=["engine_server", "service_server"])
async def server(
    request: pytest.FixtureRequest, database_url: str, tmp_path: Path
) -> AsyncIterator[ServerProcess]:
    arguments = ["--listen", "127.0.0.1:0"]
    environment = dict(ENVIRONMENT)
    if request.param == "service_server":
        arguments += ["--data-dir", str(tmp_path)]
        environment["PIPESYNC_DATABASE_URL"] = database_url
    async with running(request.param, *arguments, environment=environment) as started:
        yield started


async def call_with_token(server: ServerProcess) -> None:
    # Each kind of server answers from its own memory or store.
    if any(event.get("protocol") == "http" for event in server.events):
        async with PipelineClient(server.address, token=TOKEN) as service:
            await service.list_pipelines(pb.ListPipelinesRequest())
    else:
        async with EngineClient(server.address, token=TOKEN) as engine:
            await engine.list_connectors(ListConnectorsRequest())


async def test_a_thousand_health_watches_and_silent_calls_shut_nobody_out(
    server: ServerProcess,
) -> None:
    async with AsyncExitStack() as connections:

        async def connection() -> grpc.aio.Channel:
            # A connection of its own: otherwise channels to one address share theirs.
            options = [DIRECT, ("grpc.use_local_subchannel_pool", 1)]
            return await connections.enter_async_context(
                grpc.aio.insecure_channel(server.address, options=options)
            )

        held: list[Any] = []
        answered = 0
        for _ in range(10):
            channel = await connection()
            watcher: Any = health_pb2_grpc.HealthStub(channel)
            watches = [watcher.Watch(health_pb2.HealthCheckRequest()) for _ in range(100)]
            firsts = await asyncio.gather(*map(first, watches), return_exceptions=True)
            answered += sum(not isinstance(one, grpc.aio.AioRpcError) for one in firsts)
            shape: Any = channel.stream_stream
            held += [*watches, *(shape(method)() for method in (CHECK, REFLECTION) * 20)]
        # The budget of one address; silent reflection calls count towards it, too.
        assert 550 <= answered <= 750
        health: Any = health_pb2_grpc.HealthStub(await connection())
        assert (await health.Check(health_pb2.HealthCheckRequest())).status == SERVING
        await call_with_token(server)
        refusal = await server.wait_for("calls_refused", budget="health", bound="caller")
        assert refusal["caller"] == "127.0.0.1"
        for call in held:
            call.cancel()
    await call_with_token(server)


async def first(call: Any) -> Any:
    return await anext(aiter(call))
