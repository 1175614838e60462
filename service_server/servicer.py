"""The service's RPCs: each hands its request on, and its answer back."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import grpc.aio

from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync.v1.pipeline_service_pb2_grpc import PipelineServiceServicer
from pipesync_rpc import context as call_context
from pipesync_rpc.errors import FieldViolation
from service_server.engine import Engine
from service_server.errors import InvalidRequest
from service_server.operations import Operations
from service_server.pipelines import Pipelines
from service_server.rejected_records import RejectedRecords
from service_server.sync import Syncs
from service_server.watching import Watches
from service_server.webhooks.events import WebhookEvents
from service_server.webhooks.intake import Intake
from service_server.webhooks.simulation import Simulations

Context = grpc.aio.ServicerContext[Any, Any]


class PipelineServicer(PipelineServiceServicer):
    """Serves PipelineService. What it does not override it answers with UNIMPLEMENTED."""

    def __init__(
        self,
        *,
        engine: Engine,
        pipelines: Pipelines,
        operations: Operations,
        syncs: Syncs,
        intake: Intake,
        webhook_events: WebhookEvents,
        simulations: Simulations,
        rejected_records: RejectedRecords,
        watches: Watches,
    ) -> None:
        self._engine = engine
        self._pipelines = pipelines
        self._operations = operations
        self._syncs = syncs
        self._intake = intake
        self._webhook_events = webhook_events
        self._simulations = simulations
        self._rejected_records = rejected_records
        self._watches = watches

    async def ListPipelineConnectors(
        self, request: pb.ListPipelineConnectorsRequest, context: Context
    ) -> pb.ListPipelineConnectorsResponse:
        """The connectors that the engine has."""
        connectors = await self._engine.connectors(request.side)
        return pb.ListPipelineConnectorsResponse(connectors=connectors)

    async def DiscoverSource(
        self, request: pb.DiscoverSourceRequest, context: Context
    ) -> AsyncGenerator[pb.DiscoverSourceResponse, None]:
        """The streams that a source offers."""
        match request.WhichOneof("subject"):
            case "pipeline_id":
                call_context.bind(pipeline_id=request.pipeline_id)
                messages = self._operations.discover(request.pipeline_id)
            case "source":
                messages = self._operations.discover_unstored(request.source)
            case _:
                raise InvalidRequest(
                    [FieldViolation("source", "is required, unless pipeline_id is given")]
                )
        async with aclosing(messages):
            async for message in messages:
                yield pb.DiscoverSourceResponse(message=message)

    async def CreatePipeline(
        self, request: pb.CreatePipelineRequest, context: Context
    ) -> pb.CreatePipelineResponse:
        """Stores a new pipeline."""
        call_context.bind(pipeline_id=request.pipeline.id)
        return await self._pipelines.create(request)

    async def GetPipeline(
        self, request: pb.GetPipelineRequest, context: Context
    ) -> pb.GetPipelineResponse:
        """One pipeline."""
        call_context.bind(pipeline_id=request.id)
        pipeline = await self._pipelines.get(request.id, request.view)
        return pb.GetPipelineResponse(pipeline=pipeline)

    async def ListPipelines(
        self, request: pb.ListPipelinesRequest, context: Context
    ) -> pb.ListPipelinesResponse:
        """A page of pipelines."""
        return await self._pipelines.list_page(request)

    async def UpdatePipeline(
        self, request: pb.UpdatePipelineRequest, context: Context
    ) -> pb.UpdatePipelineResponse:
        """Changes a pipeline."""
        call_context.bind(pipeline_id=request.pipeline.id)
        return pb.UpdatePipelineResponse(pipeline=await self._pipelines.update(request))

    async def DeletePipeline(
        self, request: pb.DeletePipelineRequest, context: Context
    ) -> pb.DeletePipelineResponse:
        """Forgets a pipeline."""
        call_context.bind(pipeline_id=request.id)
        said = await self._operations.delete(request.id, skip_teardown=request.skip_teardown)
        return pb.DeletePipelineResponse(messages=said)

    async def CheckPipeline(
        self, request: pb.CheckPipelineRequest, context: Context
    ) -> AsyncGenerator[pb.CheckPipelineResponse, None]:
        """Whether the connectors can be reached."""
        call_context.bind(pipeline_id=request.id)
        async with aclosing(self._operations.check(request.id, request.only)) as messages:
            async for message in messages:
                yield pb.CheckPipelineResponse(message=message)

    async def SetupPipeline(
        self, request: pb.SetupPipelineRequest, context: Context
    ) -> AsyncGenerator[pb.SetupPipelineResponse, None]:
        """Makes what a sync needs outside."""
        call_context.bind(pipeline_id=request.id)
        async with aclosing(self._operations.setup(request.id, request.only)) as messages:
            async for message in messages:
                yield pb.SetupPipelineResponse(message=message)

    async def TeardownPipeline(
        self, request: pb.TeardownPipelineRequest, context: Context
    ) -> AsyncGenerator[pb.TeardownPipelineResponse, None]:
        """Removes what setup made."""
        call_context.bind(pipeline_id=request.id)
        async with aclosing(self._operations.teardown(request.id, request.only)) as messages:
            async for message in messages:
                yield pb.TeardownPipelineResponse(message=message)

    async def SyncPipeline(
        self, request: pb.SyncPipelineRequest, context: Context
    ) -> AsyncGenerator[pb.SyncPipelineResponse, None]:
        """Syncs, message by message."""
        call_context.bind(pipeline_id=request.id)
        async with aclosing(self._syncs.stream(request, context.time_remaining())) as messages:
            async for message in messages:
                yield pb.SyncPipelineResponse(message=message)

    async def SyncPipelineBatch(
        self, request: pb.SyncPipelineBatchRequest, context: Context
    ) -> pb.SyncPipelineBatchResponse:
        """Syncs, up to a limit."""
        call_context.bind(pipeline_id=request.id)
        eof = await self._syncs.batch(request, context.time_remaining())
        return pb.SyncPipelineBatchResponse(eof=eof)

    async def SimulateWebhookSync(
        self, request: pb.SimulateWebhookSyncRequest, context: Context
    ) -> AsyncGenerator[pb.SimulateWebhookSyncResponse, None]:
        """Syncs recent events as if they had come in by webhook."""
        call_context.bind(pipeline_id=request.id)
        async with aclosing(self._simulations.stream(request)) as messages:
            async for message in messages:
                yield pb.SimulateWebhookSyncResponse(message=message)

    async def PushWebhook(
        self, request: pb.PushWebhookRequest, context: Context
    ) -> pb.PushWebhookResponse:
        """Takes in one webhook delivery."""
        call_context.bind(pipeline_id=request.pipeline_id)
        delivery = request.delivery
        taken = await self._intake.take(
            request.pipeline_id, delivery.body, delivery.headers, ingress="rpc"
        )
        return pb.PushWebhookResponse(event_id=taken.event_id, duplicate=taken.is_duplicate)

    async def ListWebhookEvents(
        self, request: pb.ListWebhookEventsRequest, context: Context
    ) -> pb.ListWebhookEventsResponse:
        """A page of a pipeline's webhook events."""
        call_context.bind(pipeline_id=request.pipeline_id)
        return await self._webhook_events.list_page(request)

    async def ReplayWebhookEvents(
        self, request: pb.ReplayWebhookEventsRequest, context: Context
    ) -> pb.ReplayWebhookEventsResponse:
        """Has webhook events applied again."""
        call_context.bind(pipeline_id=request.pipeline_id)
        return await self._webhook_events.replay(request)

    async def RetryRejectedRecords(
        self, request: pb.RetryRejectedRecordsRequest, context: Context
    ) -> pb.RetryRejectedRecordsResponse:
        """Writes what the destination rejected once more."""
        call_context.bind(pipeline_id=request.pipeline_id)
        return await self._rejected_records.retry(request.pipeline_id)

    async def ListRuns(self, request: pb.ListRunsRequest, context: Context) -> pb.ListRunsResponse:
        """A page of a pipeline's runs."""
        call_context.bind(pipeline_id=request.pipeline_id)
        return await self._pipelines.list_runs(request)

    async def WatchPipeline(
        self, request: pb.WatchPipelineRequest, context: Context
    ) -> AsyncGenerator[pb.WatchPipelineResponse, None]:
        """A pipeline, again and again."""
        call_context.bind(pipeline_id=request.id)
        async with aclosing(self._watches.watch(request.id)) as pipelines:
            async for pipeline in pipelines:
                yield pb.WatchPipelineResponse(pipeline=pipeline)
