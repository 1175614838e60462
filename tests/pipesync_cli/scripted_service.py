"""A service that keeps pipelines in a dict and syncs as a test says, behind the real server."""

# Context types are generic in their stubs only.
from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import Message as ProtobufMessage
from google.rpc import code_pb2

from pipesync.v1 import pipeline_service_pb2 as contract
from pipesync.v1.engine_service_pb2 import ConnectorInfo
from pipesync.v1.message_pb2 import Message
from pipesync.v1.pipeline_service_pb2_grpc import (
    PipelineServiceServicer,
    add_PipelineServiceServicer_to_server,
)
from pipesync.v1.progress_pb2 import UnreadableStream
from pipesync.v1.state_pb2 import Eof
from pipesync_rpc.errors import RpcError
from pipesync_rpc.server import RpcServer

_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


# The methods are named as the contract has them.
@dataclass
class ScriptedService(PipelineServiceServicer):
    """Answers from its fields, and remembers every request."""

    pipelines: dict[str, contract.Pipeline] = field(default_factory=dict)
    connectors: list[ConnectorInfo] = field(default_factory=list)
    # What each streaming call answers.
    messages: list[Message] = field(default_factory=list)
    webhook_events: list[contract.WebhookEvent] = field(default_factory=list)
    # What creating a pipeline finds out.
    unreadable_streams: list[UnreadableStream] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    # What each batch call answers, in turn.
    ends: list[Eof] = field(default_factory=list)
    # What the next watches show, each up to an error.
    watch: list[contract.Pipeline | RpcError] = field(default_factory=list)
    # What is listed, newest first.
    runs: list[contract.Run] = field(default_factory=list)
    # What a retry of rejected records answers.
    retried: contract.RetryRejectedRecordsResponse = field(
        default_factory=contract.RetryRejectedRecordsResponse
    )
    raises: RpcError | None = None
    # Lists answer this many a page.
    page_size: int = 2
    requests: list[ProtobufMessage] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)

    async def ListPipelineConnectors(
        self, request: contract.ListPipelineConnectorsRequest, context: _Context
    ) -> contract.ListPipelineConnectorsResponse:
        """All of them."""
        self._saw(request, context)
        return contract.ListPipelineConnectorsResponse(connectors=self.connectors)

    async def DiscoverSource(
        self, request: contract.DiscoverSourceRequest, context: _Context
    ) -> AsyncIterator[contract.DiscoverSourceResponse]:
        """The scripted messages."""
        self._saw(request, context)
        for message in self.messages:
            yield contract.DiscoverSourceResponse(message=message)

    async def CreatePipeline(
        self, request: contract.CreatePipelineRequest, context: _Context
    ) -> contract.CreatePipelineResponse:
        """Stores it."""
        self._saw(request, context)
        self.pipelines[request.pipeline.id] = request.pipeline
        return contract.CreatePipelineResponse(
            pipeline=request.pipeline,
            unreadable_streams=self.unreadable_streams,
            notices=self.notices,
        )

    async def GetPipeline(
        self, request: contract.GetPipelineRequest, context: _Context
    ) -> contract.GetPipelineResponse:
        """Finds it."""
        self._saw(request, context)
        if request.id not in self.pipelines:
            raise RpcError(f"there is no pipeline {request.id}", code=code_pb2.NOT_FOUND)
        return contract.GetPipelineResponse(pipeline=self.pipelines[request.id])

    async def ListPipelines(
        self, request: contract.ListPipelinesRequest, context: _Context
    ) -> contract.ListPipelinesResponse:
        """A page, whose token is where the next one begins."""
        self._saw(request, context)
        start = int(request.page_token or 0)
        end = start + self.page_size
        pipelines = list(self.pipelines.values())
        return contract.ListPipelinesResponse(
            pipelines=pipelines[start:end],
            next_page_token=str(end) if end < len(pipelines) else "",
        )

    async def UpdatePipeline(
        self, request: contract.UpdatePipelineRequest, context: _Context
    ) -> contract.UpdatePipelineResponse:
        """Answers what it was sent."""
        self._saw(request, context)
        return contract.UpdatePipelineResponse(pipeline=request.pipeline)

    async def DeletePipeline(
        self, request: contract.DeletePipelineRequest, context: _Context
    ) -> contract.DeletePipelineResponse:
        """Forgets it."""
        self._saw(request, context)
        self.pipelines.pop(request.id)
        return contract.DeletePipelineResponse(messages=self.messages)

    async def CheckPipeline(
        self, request: contract.CheckPipelineRequest, context: _Context
    ) -> AsyncIterator[contract.CheckPipelineResponse]:
        """The scripted messages."""
        self._saw(request, context)
        for message in self.messages:
            yield contract.CheckPipelineResponse(message=message)

    async def SetupPipeline(
        self, request: contract.SetupPipelineRequest, context: _Context
    ) -> AsyncIterator[contract.SetupPipelineResponse]:
        """The scripted messages."""
        self._saw(request, context)
        for message in self.messages:
            yield contract.SetupPipelineResponse(message=message)

    async def SyncPipeline(
        self, request: contract.SyncPipelineRequest, context: _Context
    ) -> AsyncIterator[contract.SyncPipelineResponse]:
        """The scripted messages."""
        self._saw(request, context)
        for message in self.messages:
            yield contract.SyncPipelineResponse(message=message)

    async def SyncPipelineBatch(
        self, request: contract.SyncPipelineBatchRequest, context: _Context
    ) -> contract.SyncPipelineBatchResponse:
        """The next scripted end."""
        self._saw(request, context)
        return contract.SyncPipelineBatchResponse(eof=self.ends.pop(0))

    async def SimulateWebhookSync(
        self, request: contract.SimulateWebhookSyncRequest, context: _Context
    ) -> AsyncIterator[contract.SimulateWebhookSyncResponse]:
        """The scripted messages."""
        self._saw(request, context)
        for message in self.messages:
            yield contract.SimulateWebhookSyncResponse(message=message)

    async def ListWebhookEvents(
        self, request: contract.ListWebhookEventsRequest, context: _Context
    ) -> contract.ListWebhookEventsResponse:
        """A page, whose token is where the next one begins."""
        self._saw(request, context)
        start = int(request.page_token or 0)
        end = start + min(self.page_size, request.page_size)
        return contract.ListWebhookEventsResponse(
            events=self.webhook_events[start:end],
            next_page_token=str(end) if end < len(self.webhook_events) else "",
        )

    async def ReplayWebhookEvents(
        self, request: contract.ReplayWebhookEventsRequest, context: _Context
    ) -> contract.ReplayWebhookEventsResponse:
        """As many as were named, else as there are."""
        self._saw(request, context)
        count = len(request.event_ids) or len(self.webhook_events)
        return contract.ReplayWebhookEventsResponse(replayed_count=count)

    async def RetryRejectedRecords(
        self, request: contract.RetryRejectedRecordsRequest, context: _Context
    ) -> contract.RetryRejectedRecordsResponse:
        """The scripted answer."""
        self._saw(request, context)
        return self.retried

    async def WatchPipeline(
        self, request: contract.WatchPipelineRequest, context: _Context
    ) -> AsyncIterator[contract.WatchPipelineResponse]:
        """The next scripted changes."""
        self._saw(request, context)
        while self.watch:
            shown = self.watch.pop(0)
            if isinstance(shown, RpcError):
                raise shown
            yield contract.WatchPipelineResponse(pipeline=shown)

    async def ListRuns(
        self, request: contract.ListRunsRequest, context: _Context
    ) -> contract.ListRunsResponse:
        """A page, whose token is where the next one begins."""
        self._saw(request, context)
        start = int(request.page_token or 0)
        end = start + min(self.page_size, request.page_size)
        return contract.ListRunsResponse(
            runs=self.runs[start:end], next_page_token=str(end) if end < len(self.runs) else ""
        )

    def _saw(self, request: ProtobufMessage, context: _Context) -> None:
        self.requests.append(request)
        self.metadata = dict(context.invocation_metadata() or ())
        if self.raises is not None:
            raise self.raises


def scripted_service() -> ScriptedService:
    """A service with nothing in it."""
    return ScriptedService()  # type: ignore[abstract]  # its base answers the rest


@asynccontextmanager
async def serving(service: ScriptedService, **options: Any) -> AsyncIterator[str]:
    """The address of a real server of ``service``."""
    async with RpcServer(
        listen="127.0.0.1:0",
        register=partial(add_PipelineServiceServicer_to_server, service),
        service_names=["pipesync.v1.PipelineService"],
        **options,
    ) as server:
        yield server.address
