"""Service that keeps pipelines in a dict and syncs as scripted, behind the real server."""

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
from pipesync_server.server import RpcServer

_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


# The contract names the methods.
@dataclass
class ScriptedService(PipelineServiceServicer):
    """Answers from its fields, and records every request."""

    pipelines: dict[str, contract.Pipeline] = field(default_factory=dict)
    connectors: list[ConnectorInfo] = field(default_factory=list)
    # Messages of each streaming call.
    messages: list[Message] = field(default_factory=list)
    # Planned removals of a teardown and of a deletion.
    plan: list[Message] = field(default_factory=list)
    webhook_events: list[contract.WebhookEvent] = field(default_factory=list)
    # Results of the check when a pipeline is created or updated.
    unreadable_streams: list[UnreadableStream] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    # Ends of the batch calls, in turn.
    ends: list[Eof] = field(default_factory=list)
    # Changes in the next watches, each up to an error.
    watch: list[contract.Pipeline | RpcError] = field(default_factory=list)
    # Listed items, newest first.
    runs: list[contract.Run] = field(default_factory=list)
    # Response to a retry of rejected records.
    retried: contract.RetryRejectedRecordsResponse = field(
        default_factory=contract.RetryRejectedRecordsResponse
    )
    raises: RpcError | None = None
    # Page size of the lists.
    page_size: int = 2
    requests: list[ProtobufMessage] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)

    async def ListPipelineConnectors(
        self, request: contract.ListPipelineConnectorsRequest, context: _Context
    ) -> contract.ListPipelineConnectorsResponse:
        """Return all connectors."""
        self._saw(request, context)
        return contract.ListPipelineConnectorsResponse(connectors=self.connectors)

    async def DiscoverSource(
        self, request: contract.DiscoverSourceRequest, context: _Context
    ) -> AsyncIterator[contract.DiscoverSourceResponse]:
        """Yield the scripted messages."""
        self._saw(request, context)
        for message in self.messages:
            yield contract.DiscoverSourceResponse(message=message)

    async def CreatePipeline(
        self, request: contract.CreatePipelineRequest, context: _Context
    ) -> contract.CreatePipelineResponse:
        """Store the pipeline."""
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
        """Return the pipeline."""
        self._saw(request, context)
        if request.pipeline_id not in self.pipelines:
            raise RpcError(f"there is no pipeline {request.pipeline_id}", code=code_pb2.NOT_FOUND)
        return contract.GetPipelineResponse(pipeline=self.pipelines[request.pipeline_id])

    async def ListPipelines(
        self, request: contract.ListPipelinesRequest, context: _Context
    ) -> contract.ListPipelinesResponse:
        """Return a page, whose token is the index of the next one."""
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
        """Return the pipeline that was sent."""
        self._saw(request, context)
        return contract.UpdatePipelineResponse(
            pipeline=request.pipeline,
            unreadable_streams=self.unreadable_streams,
            notices=self.notices,
        )

    async def DeletePipeline(
        self, request: contract.DeletePipelineRequest, context: _Context
    ) -> contract.DeletePipelineResponse:
        """Delete the pipeline."""
        self._saw(request, context)
        if request.validate_only:
            return contract.DeletePipelineResponse(messages=self.plan, etag="e1")
        self.pipelines.pop(request.pipeline_id)
        return contract.DeletePipelineResponse(messages=self.messages)

    async def CheckPipeline(
        self, request: contract.CheckPipelineRequest, context: _Context
    ) -> AsyncIterator[contract.CheckPipelineResponse]:
        """Yield the scripted messages."""
        self._saw(request, context)
        for message in self.messages:
            yield contract.CheckPipelineResponse(message=message)

    async def SetupPipeline(
        self, request: contract.SetupPipelineRequest, context: _Context
    ) -> AsyncIterator[contract.SetupPipelineResponse]:
        """Yield the scripted messages."""
        self._saw(request, context)
        for message in self.messages:
            yield contract.SetupPipelineResponse(message=message)

    async def TeardownPipeline(
        self, request: contract.TeardownPipelineRequest, context: _Context
    ) -> AsyncIterator[contract.TeardownPipelineResponse]:
        """Yield the scripted messages, or the plan."""
        self._saw(request, context)
        etag = "e1" if request.validate_only else ""
        for message in self.plan if request.validate_only else self.messages:
            yield contract.TeardownPipelineResponse(message=message, etag=etag)

    async def SyncPipeline(
        self, request: contract.SyncPipelineRequest, context: _Context
    ) -> AsyncIterator[contract.SyncPipelineResponse]:
        """Yield the scripted messages."""
        self._saw(request, context)
        for message in self.messages:
            yield contract.SyncPipelineResponse(message=message)

    async def SyncPipelineBatch(
        self, request: contract.SyncPipelineBatchRequest, context: _Context
    ) -> contract.SyncPipelineBatchResponse:
        """Return the next scripted end."""
        self._saw(request, context)
        return contract.SyncPipelineBatchResponse(eof=self.ends.pop(0))

    async def SimulateWebhookSync(
        self, request: contract.SimulateWebhookSyncRequest, context: _Context
    ) -> AsyncIterator[contract.SimulateWebhookSyncResponse]:
        """Yield the scripted messages."""
        self._saw(request, context)
        for message in self.messages:
            yield contract.SimulateWebhookSyncResponse(message=message)

    async def ListWebhookEvents(
        self, request: contract.ListWebhookEventsRequest, context: _Context
    ) -> contract.ListWebhookEventsResponse:
        """Return a page, whose token is the index of the next one."""
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
        """Return the number of named events, or else of all events."""
        self._saw(request, context)
        count = len(request.event_ids) or len(self.webhook_events)
        return contract.ReplayWebhookEventsResponse(replayed_count=count)

    async def RetryRejectedRecords(
        self, request: contract.RetryRejectedRecordsRequest, context: _Context
    ) -> contract.RetryRejectedRecordsResponse:
        """Return the scripted response."""
        self._saw(request, context)
        return self.retried

    async def WatchPipeline(
        self, request: contract.WatchPipelineRequest, context: _Context
    ) -> AsyncIterator[contract.WatchPipelineResponse]:
        """Yield the next scripted changes."""
        self._saw(request, context)
        while self.watch:
            shown = self.watch.pop(0)
            if isinstance(shown, RpcError):
                raise shown
            yield contract.WatchPipelineResponse(pipeline=shown)

    async def ListRuns(
        self, request: contract.ListRunsRequest, context: _Context
    ) -> contract.ListRunsResponse:
        """Return a page, whose token is the index of the next one."""
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
    """Return an empty service."""
    return ScriptedService()  # type: ignore[abstract]  # its base answers the rest


@asynccontextmanager
async def serving(service: ScriptedService, **options: Any) -> AsyncIterator[str]:
    """Yield the address of a real server of ``service``."""
    async with RpcServer(
        listen="127.0.0.1:0",
        register=partial(add_PipelineServiceServicer_to_server, service),
        service_names=["pipesync.v1.PipelineService"],
        **options,
    ) as server:
        yield server.address
