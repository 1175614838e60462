"""Engine with scripted methods, behind the real server."""

# Context types are generic in their stubs only.
from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc

from pipesync.v1.engine_service_pb2 import (
    GetConnectorRequest,
    GetConnectorResponse,
    ListConnectorsRequest,
    ListConnectorsResponse,
    PipelineSyncRequest,
    PipelineSyncResponse,
    PipelineWriteRequest,
    PipelineWriteResponse,
)
from pipesync.v1.engine_service_pb2_grpc import (
    EngineServiceServicer,
    EngineServiceStub,
    add_EngineServiceServicer_to_server,
)
from pipesync.v1.message_pb2 import Log, Message
from pipesync_rpc import context as call_context
from pipesync_rpc.channel import open_channel
from pipesync_server.server import RpcServer

if TYPE_CHECKING:
    from pipesync.v1.engine_service_pb2_grpc import EngineServiceAsyncStub

ENGINE_SERVICE = "pipesync.v1.EngineService"


@dataclass
class ScriptedEngine(EngineServiceServicer):
    """Raises the given error, and records the requests."""

    raises: BaseException | None = None
    requests: int = 0
    identifiers: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    seconds_left: float | None = None
    entered: asyncio.Event = field(default_factory=asyncio.Event)
    released: asyncio.Event = field(default_factory=asyncio.Event)
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    async def ListConnectors(
        self,
        request: ListConnectorsRequest,
        context: grpc.aio.ServicerContext[ListConnectorsRequest, ListConnectorsResponse],
    ) -> ListConnectorsResponse:
        """Return a response, or raise."""
        self._saw(context)
        if self.raises is not None:
            raise self.raises
        return ListConnectorsResponse()

    async def PipelineSync(
        self,
        request: PipelineSyncRequest,
        context: grpc.aio.ServicerContext[PipelineSyncRequest, PipelineSyncResponse],
    ) -> AsyncIterator[PipelineSyncResponse]:
        """Yield a response, wait to be released, then end or raise."""
        self._saw(context)
        try:
            yield PipelineSyncResponse(message=Message(log=Log(message="first")))
            self.entered.set()
            await self.released.wait()
            if self.raises is not None:
                raise self.raises
            yield PipelineSyncResponse(message=Message(log=Log(message="last")))
        finally:
            # A handler that cleans up takes a round of the loop or two, as closing a pool does.
            await asyncio.sleep(0)
            self.closed.set()

    async def PipelineWrite(
        self,
        request_iterator: AsyncIterator[PipelineWriteRequest],
        context: grpc.aio.ServicerContext[PipelineWriteRequest, PipelineWriteResponse],
    ) -> AsyncIterator[PipelineWriteResponse]:
        """Yield a response to each request, and raise after the last."""
        self._saw(context)
        async for request in request_iterator:
            yield PipelineWriteResponse(message=request.message)
        if self.raises is not None:
            raise self.raises

    async def GetConnector(
        self,
        request: GetConnectorRequest,
        context: grpc.aio.ServicerContext[GetConnectorRequest, GetConnectorResponse],
    ) -> GetConnectorResponse:
        """Abort as gRPC does it."""
        await context.abort(grpc.StatusCode.NOT_FOUND, "no such connector")

    def _saw(self, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        self.requests += 1
        self.metadata = dict(context.invocation_metadata() or ())
        self.seconds_left = context.time_remaining()
        self.identifiers = {
            "request_id": call_context.request_id.get(),
            "pipeline_id": call_context.pipeline_id.get(),
            "traceparent": call_context.traceparent.get(),
        }


def scripted_engine(raises: BaseException | None = None) -> ScriptedEngine:
    """Return an engine that answers, or raises ``raises``."""
    return ScriptedEngine(raises=raises)  # type: ignore[abstract]  # its base answers the rest


def engine_server(engine: ScriptedEngine, **options: Any) -> RpcServer:
    """Return a server of ``engine`` on a free loopback port, not started."""
    return RpcServer(
        listen=options.pop("listen", "127.0.0.1:0"),
        register=partial(add_EngineServiceServicer_to_server, engine),
        service_names=[ENGINE_SERVICE],
        **options,
    )


@asynccontextmanager
async def engine_stub(
    engine: ScriptedEngine, *, token: str | None = None, **options: Any
) -> AsyncIterator[EngineServiceAsyncStub]:
    """Yield a stub of ``engine``, over a real connection."""
    async with (
        engine_server(engine, **options) as server,
        open_channel(server.address, token=token) as channel,
    ):
        yield EngineServiceStub(channel)
