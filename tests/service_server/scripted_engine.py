"""Engine that follows a test's script, over real gRPC."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct
from google.rpc import code_pb2

from pipesync.v1 import engine_service_pb2 as pb
from pipesync.v1.catalog_pb2 import Catalog, Spec, Stream
from pipesync.v1.engine_service_pb2_grpc import (
    EngineServiceServicer,
    add_EngineServiceServicer_to_server,
)
from pipesync.v1.message_pb2 import Log, Message, PlannedRemoval
from pipesync.v1.progress_pb2 import ConnectionStatus, RunStatus, UnreadableStream
from pipesync.v1.state_pb2 import Eof
from pipesync_rpc.errors import RpcError
from pipesync_server.server import RpcServer

Context = grpc.aio.ServicerContext[Any, Any]

SPEC = Spec(
    config_schema=ParseDict(
        {
            "type": "object",
            "properties": {
                "api_key": {
                    "type": "string",
                    "writeOnly": True,
                    "format": "password",
                    "sentTo": ["base_url", "host"],
                },
                "webhook_secret": {
                    "anyOf": [{"$ref": "#/$defs/Secret"}, {"type": "null"}],
                    "sentTo": [],
                },
                "base_url": {"type": "string", "default": "http://here"},
                "host": {"type": "string", "x-pipesync-target": {"part": "host"}},
                "rate": {"type": "integer"},
                "poll_events": {"type": "boolean", "default": False},
            },
            "required": ["api_key"],
            "additionalProperties": False,
            "$defs": {"Secret": {"type": "string", "writeOnly": True}},
        },
        Struct(),
    ),
    webhook_secret_field="webhook_secret",
    supports_reconcile=True,
    follows_events_field="poll_events",
)
# Spec of the connector "other".
SPEC_WITHOUT_WEBHOOKS = Spec(config_schema=SPEC.config_schema)

# Messages of a teardown by default.
DROPPED = Message(
    emitted_by="destination/scripted", log=Log(level=Log.LEVEL_INFO, message="dropped table t")
)

# Messages of a planned teardown.
PLANNED = Message(
    emitted_by="destination/scripted",
    planned_removal=PlannedRemoval(
        kind=PlannedRemoval.KIND_TABLE, name="t", estimated_row_count=12
    ),
)


async def _ends_well(request: pb.PipelineSyncBatchRequest) -> Eof:
    return Eof(status=RunStatus.RUN_STATUS_SUCCEEDED, ending_state=request.options.state)


async def _streams_nothing(request: pb.PipelineSyncRequest) -> AsyncGenerator[Message, None]:
    eof = Eof(status=RunStatus.RUN_STATUS_SUCCEEDED, ending_state=request.options.state)
    yield Message(eof=eof)


async def _removes_a_table() -> AsyncGenerator[Message, None]:
    yield DROPPED


class ScriptedEngine(EngineServiceServicer):
    """An engine with one connector, "scripted", on both sides.

    Attributes:
        requests: All requests so far.
        metadata: The metadata of the latest call.
        seconds_to_deadline: The time to the deadline of the latest call; None without a deadline.
        failing_check: The message of a failed connection; empty if connections succeed.
        failing_check_reached: Whether a failed check reached the connector's other end.
        unreadable_streams: The unreadable streams of a successful check.
        notices: The notices of a successful check, for each connector.
        account_id: The account in the catalog; empty for none.
        plan: The messages of a planned teardown.
        discover_error: The error that discovery raises, if set.
        error: The error that every call but those for specs raises, if set.
        specs_are_unavailable: Whether calls for one spec fail.
        setup_messages: The messages of a setup.
        setup: The function that runs a setup; None to yield ``setup_messages``.
        setup_error: The error that setup raises, if set.
        teardown: The function that runs a teardown.
        batch: The function that runs a batch.
        sync: The function that runs a sync.
        retried: The response to a retry of rejected records.
    """

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.metadata: dict[str, str] = {}
        self.seconds_to_deadline: float | None = None
        self.failing_check = ""
        self.failing_check_reached = False
        self.unreadable_streams: Sequence[UnreadableStream] = ()
        self.notices: Sequence[str] = ()
        self.account_id = ""
        self.plan: Sequence[Message] = (PLANNED,)
        self.discover_error: RpcError | None = None
        self.error: RpcError | None = None
        self.specs_are_unavailable = False
        self.setup_messages: Sequence[Message] = ()
        self.setup: Callable[[], AsyncIterator[Message]] | None = None
        self.setup_error: RpcError | None = None
        self.teardown: Callable[[], AsyncIterator[Message]] = _removes_a_table
        self.batch: Callable[[pb.PipelineSyncBatchRequest], Awaitable[Eof]] = _ends_well
        self.sync: Callable[[pb.PipelineSyncRequest], AsyncIterator[Message]] = _streams_nothing
        self.retried = pb.PipelineRetryRejectedResponse()

    def last(self, request_type: type[Any]) -> Any:
        """Return the latest request of a type."""
        return [request for request in self.requests if isinstance(request, request_type)][-1]

    def _enter(self, request: Any, context: Context) -> None:
        self.requests.append(request)
        self.metadata = {key: str(value) for key, value in context.invocation_metadata() or ()}
        self.seconds_to_deadline = context.time_remaining()
        if self.error is not None:
            raise self.error

    async def ListConnectors(
        self, request: pb.ListConnectorsRequest, context: Context
    ) -> pb.ListConnectorsResponse:
        return pb.ListConnectorsResponse(
            connectors=[
                pb.ConnectorInfo(side=side, type="scripted", spec=SPEC)
                for side in (pb.CONNECTOR_SIDE_SOURCE, pb.CONNECTOR_SIDE_DESTINATION)
                if request.side in (side, pb.CONNECTOR_SIDE_UNSPECIFIED)
            ]
        )

    async def GetConnector(
        self, request: pb.GetConnectorRequest, context: Context
    ) -> pb.GetConnectorResponse:
        if request.type not in ("scripted", "other"):
            raise RpcError(
                f"there is no connector {request.type!r}",
                code=code_pb2.NOT_FOUND,
                reason="UNKNOWN_CONNECTOR",
            )
        if self.specs_are_unavailable:
            raise RpcError("away", code=code_pb2.UNAVAILABLE, reason="UNAVAILABLE")
        spec = SPEC if request.type == "scripted" else SPEC_WITHOUT_WEBHOOKS
        return pb.GetConnectorResponse(
            connector=pb.ConnectorInfo(side=request.side, type=request.type, spec=spec)
        )

    async def SourceDiscover(
        self, request: pb.SourceDiscoverRequest, context: Context
    ) -> AsyncGenerator[pb.SourceDiscoverResponse, None]:
        self._enter(request, context)
        if self.discover_error is not None:
            raise self.discover_error
        catalog = Catalog(streams=[Stream(name="customers")])
        if self.account_id:
            catalog.streams[0].metadata["account_id"] = self.account_id
        yield pb.SourceDiscoverResponse(message=Message(catalog=catalog))

    async def PipelineCheck(
        self, request: pb.PipelineCheckRequest, context: Context
    ) -> AsyncGenerator[pb.PipelineCheckResponse, None]:
        self._enter(request, context)
        if request.validate_only:
            return
        status = ConnectionStatus(
            status=ConnectionStatus.STATUS_SUCCEEDED,
            unreadable_streams=self.unreadable_streams,
            notices=self.notices,
        )
        if self.failing_check:
            status = ConnectionStatus(
                status=ConnectionStatus.STATUS_FAILED,
                message=self.failing_check,
                reached=self.failing_check_reached,
            )
        yield pb.PipelineCheckResponse(
            message=Message(emitted_by="source/scripted", connection_status=status)
        )

    async def PipelineSetup(
        self, request: pb.PipelineSetupRequest, context: Context
    ) -> AsyncGenerator[pb.PipelineSetupResponse, None]:
        self._enter(request, context)
        if self.setup_error is not None:
            raise self.setup_error
        if self.setup is not None:
            async for message in self.setup():
                yield pb.PipelineSetupResponse(message=message)
        for message in self.setup_messages:
            yield pb.PipelineSetupResponse(message=message)

    async def PipelineTeardown(
        self, request: pb.PipelineTeardownRequest, context: Context
    ) -> AsyncGenerator[pb.PipelineTeardownResponse, None]:
        self._enter(request, context)
        async for message in self.teardown():
            yield pb.PipelineTeardownResponse(message=message)

    async def PipelinePlanTeardown(
        self, request: pb.PipelinePlanTeardownRequest, context: Context
    ) -> AsyncGenerator[pb.PipelinePlanTeardownResponse, None]:
        self._enter(request, context)
        for message in self.plan:
            yield pb.PipelinePlanTeardownResponse(message=message)

    async def PipelineSync(
        self, request: pb.PipelineSyncRequest, context: Context
    ) -> AsyncGenerator[pb.PipelineSyncResponse, None]:
        self._enter(request, context)
        async for message in self.sync(request):
            yield pb.PipelineSyncResponse(message=message)

    async def PipelineSyncBatch(
        self, request: pb.PipelineSyncBatchRequest, context: Context
    ) -> pb.PipelineSyncBatchResponse:
        self._enter(request, context)
        return pb.PipelineSyncBatchResponse(eof=await self.batch(request))

    async def PipelineRetryRejected(
        self, request: pb.PipelineRetryRejectedRequest, context: Context
    ) -> pb.PipelineRetryRejectedResponse:
        self._enter(request, context)
        return self.retried


@asynccontextmanager
async def serving(engine: ScriptedEngine) -> AsyncIterator[str]:
    """Serve ``engine`` during the body, and yield its address."""
    async with RpcServer(
        listen="127.0.0.1:0",
        register=lambda server: add_EngineServiceServicer_to_server(engine, server),
        service_names=["pipesync.v1.EngineService"],
        grace=0.1,
    ) as server:
        yield server.address
