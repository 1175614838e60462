"""Servers that are replaced one after the other while callers continue."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct

from pipesync.v1.catalog_pb2 import Connector, PipelineConfig
from pipesync.v1.pipeline_service_pb2 import (
    CreatePipelineRequest,
    GetPipelineRequest,
    ListPipelineConnectorsRequest,
    ListPipelinesRequest,
    Pipeline,
)
from pipesync_client import PipelineClient
from pipesync_rpc.errors import RpcError
from tests.processes import ServerProcess

CALLERS = 60


class _Replaced:
    """A server whose process is replaced by another one at the same address."""

    def __init__(self, module: str, *arguments: str, environment: dict[str, str]) -> None:
        self._module, self._arguments, self._environment = module, arguments, environment
        self._process: ServerProcess | None = None
        self.address = "127.0.0.1:0"

    async def start(self) -> None:
        arguments = ("--listen", self.address, *self._arguments)
        self._process = ServerProcess(self._module, arguments, self._environment)
        await self._process.start()
        self.address = self._process.address

    async def stop(self) -> None:
        if self._process is not None:
            assert await self._process.stop() == 0

    async def replace(self) -> None:
        await self.stop()
        await self.start()


@pytest.fixture
async def servers(
    service_database_url: str, tmp_path: Path
) -> AsyncIterator[tuple[list[_Replaced], list[_Replaced]]]:
    """Yield two engines, and two services that call both."""
    async with AsyncExitStack() as stack:

        async def started(module: str, *arguments: str) -> _Replaced:
            one = _Replaced(
                module, *arguments, environment={"PIPESYNC_DATABASE_URL": service_database_url}
            )
            stack.push_async_callback(one.stop)
            await one.start()
            return one

        engines = [await started("engine_server") for _ in range(2)]
        target = "ipv4:" + ",".join(engine.address for engine in engines)
        arguments = ("--engine", target, "--data-dir", str(tmp_path))
        yield engines, [await started("service_server", *arguments) for _ in range(2)]


async def test_a_rolling_restart_under_load_fails_no_call(
    servers: tuple[list[_Replaced], list[_Replaced]],
) -> None:
    engines, services = servers
    target = "ipv4:" + ",".join(service.address for service in services)
    ended = asyncio.Event()
    answered: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    async with PipelineClient(target) as client:
        await client.create_pipeline(
            CreatePipelineRequest(pipeline=_pipeline("first"), skip_check=True)
        )
        # The service answers the first call itself, and passes the last one to an engine.
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: client.get_pipeline(GetPipelineRequest(pipeline_id="first")),
            lambda: client.list_pipelines(ListPipelinesRequest()),
            lambda: client.list_pipeline_connectors(ListPipelineConnectorsRequest()),
        ]

        async def call_on(number: int) -> None:
            while not ended.is_set():
                try:
                    await calls[number % len(calls)]()
                except RpcError as error:
                    failed[f"{number % len(calls)}: {error.code} {error.message}"] += 1
                else:
                    answered[str(number)] += 1

        async with asyncio.TaskGroup() as callers:
            for number in range(CALLERS):
                callers.create_task(call_on(number))
            try:
                for server in (*engines, *services):
                    await server.replace()
            finally:
                ended.set()
    assert not failed
    assert len(answered) == CALLERS


def _pipeline(pipeline_id: str) -> Pipeline:
    source = {"api_key": "sk_test_1", "account_id": "acct_1"}
    return Pipeline(
        id=pipeline_id,
        config=PipelineConfig(
            source=Connector(type="stripe", config=ParseDict(source, Struct())),
            destination=Connector(
                type="postgres", config=ParseDict({"host": "localhost", "user": "me"}, Struct())
            ),
        ),
    )
