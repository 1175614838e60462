"""The service's gRPC servicer, which delegates every RPC."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import grpc.aio

from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync.v1.pipeline_service_pb2_grpc import PipelineServiceServicer
from pipesync_rpc import context as call_context
from pipesync_rpc.errors import FieldViolation
from pipesync_server import access
from pipesync_server.peer import peer
from pipesync_server.request_check import check_request
from service_server.checks import check_named
from service_server.engine import Engine
from service_server.errors import InvalidRequest, Violations
from service_server.pipelines.listing import PipelineListing
from service_server.pipelines.operations import Operations
from service_server.pipelines.pipelines import Pipelines
from service_server.pipelines.rejected_records import RejectedRecords
from service_server.pipelines.watching import Watches
from service_server.sync.sync import Syncs
from service_server.webhooks.events import WebhookEvents
from service_server.webhooks.receiver import WebhookReceiver
from service_server.webhooks.simulation import Simulations

Context = grpc.aio.ServicerContext[Any, Any]


class PipelineServicer(PipelineServiceServicer):
    """Serves PipelineService; RPCs that it does not override answer UNIMPLEMENTED."""

    def __init__(
        self,
        *,
        engine: Engine,
        pipelines: Pipelines,
        listing: PipelineListing,
        operations: Operations,
        syncs: Syncs,
        receiver: WebhookReceiver,
        webhook_events: WebhookEvents,
        simulations: Simulations,
        rejected_records: RejectedRecords,
        watches: Watches,
    ) -> None:
        self._engine = engine
        self._pipelines = pipelines
        self._listing = listing
        self._operations = operations
        self._syncs = syncs
        self._receiver = receiver
        self._webhook_events = webhook_events
        self._simulations = simulations
        self._rejected_records = rejected_records
        self._watches = watches

    async def ListPipelineConnectors(
        self, request: pb.ListPipelineConnectorsRequest, context: Context
    ) -> pb.ListPipelineConnectorsResponse:
        """Return the connectors that the engine has."""
        Violations(await check_request(request)).raise_if_any()
        connectors = await self._engine.connectors(request.side)
        return pb.ListPipelineConnectorsResponse(connectors=connectors)

    async def DiscoverSource(
        self, request: pb.DiscoverSourceRequest, context: Context
    ) -> AsyncGenerator[pb.DiscoverSourceResponse, None]:
        """Yield the catalog of a source, and logs."""
        match request.WhichOneof("subject"):
            case "pipeline_id":
                await check_named(request)
                call_context.bind(pipeline_id=request.pipeline_id)
                messages = self._operations.discover(request.pipeline_id)
            case "source":
                Violations(await check_request(request)).raise_if_any()
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
        """Create a pipeline."""
        call_context.bind(pipeline_id=request.pipeline.id)
        return await self._pipelines.create(request, prefix=access.principal.get().prefix)

    async def GetPipeline(
        self, request: pb.GetPipelineRequest, context: Context
    ) -> pb.GetPipelineResponse:
        """Return one pipeline."""
        await check_named(request)
        call_context.bind(pipeline_id=request.pipeline_id)
        pipeline = await self._pipelines.get(request.pipeline_id, request.view)
        return pb.GetPipelineResponse(pipeline=pipeline)

    async def ListPipelines(
        self, request: pb.ListPipelinesRequest, context: Context
    ) -> pb.ListPipelinesResponse:
        """Return a page of pipelines."""
        return await self._listing.list_page(request, prefix=access.principal.get().prefix)

    async def UpdatePipeline(
        self, request: pb.UpdatePipelineRequest, context: Context
    ) -> pb.UpdatePipelineResponse:
        """Update a pipeline."""
        call_context.bind(pipeline_id=request.pipeline.id)
        return await self._pipelines.update(request)

    async def DeletePipeline(
        self, request: pb.DeletePipelineRequest, context: Context
    ) -> pb.DeletePipelineResponse:
        """Delete a pipeline, or return the removals that this would make."""
        await check_named(request)
        call_context.bind(pipeline_id=request.pipeline_id)
        act = self._operations.plan_deletion if request.validate_only else self._operations.delete
        return await act(
            request.pipeline_id, skip_teardown=request.skip_teardown, etag=request.etag
        )

    async def CheckPipeline(
        self, request: pb.CheckPipelineRequest, context: Context
    ) -> AsyncGenerator[pb.CheckPipelineResponse, None]:
        """Yield whether the connectors can be reached, and logs."""
        await check_named(request)
        call_context.bind(pipeline_id=request.pipeline_id)
        async with aclosing(self._operations.check(request.pipeline_id, request.side)) as messages:
            async for message in messages:
                yield pb.CheckPipelineResponse(message=message)

    async def SetupPipeline(
        self, request: pb.SetupPipelineRequest, context: Context
    ) -> AsyncGenerator[pb.SetupPipelineResponse, None]:
        """Set a pipeline up, and yield the messages of the setup."""
        await check_named(request)
        call_context.bind(pipeline_id=request.pipeline_id)
        async with aclosing(self._operations.setup(request.pipeline_id, request.side)) as messages:
            async for message in messages:
                yield pb.SetupPipelineResponse(message=message)

    async def TeardownPipeline(
        self, request: pb.TeardownPipelineRequest, context: Context
    ) -> AsyncGenerator[pb.TeardownPipelineResponse, None]:
        """Tear a pipeline down, or yield the removals that this would make."""
        await check_named(request)
        call_context.bind(pipeline_id=request.pipeline_id)
        only, etag = request.side, request.etag
        if request.validate_only:
            plan = self._operations.plan_teardown(request.pipeline_id, only, etag=etag)
            async with aclosing(plan) as answers:
                async for answer in answers:
                    yield answer
            return
        async with aclosing(
            self._operations.teardown(request.pipeline_id, only, etag=etag)
        ) as messages:
            async for message in messages:
                yield pb.TeardownPipelineResponse(message=message)

    async def SyncPipeline(
        self, request: pb.SyncPipelineRequest, context: Context
    ) -> AsyncGenerator[pb.SyncPipelineResponse, None]:
        """Sync a pipeline, and yield the messages."""
        call_context.bind(pipeline_id=request.pipeline_id)
        async with aclosing(self._syncs.stream(request, context.time_remaining())) as messages:
            async for message in messages:
                yield pb.SyncPipelineResponse(message=message)

    async def SyncPipelineBatch(
        self, request: pb.SyncPipelineBatchRequest, context: Context
    ) -> pb.SyncPipelineBatchResponse:
        """Sync a pipeline up to a limit."""
        call_context.bind(pipeline_id=request.pipeline_id)
        eof = await self._syncs.batch(request, context.time_remaining())
        return pb.SyncPipelineBatchResponse(eof=eof)

    async def SimulateWebhookSync(
        self, request: pb.SimulateWebhookSyncRequest, context: Context
    ) -> AsyncGenerator[pb.SimulateWebhookSyncResponse, None]:
        """Sync recent events as if webhooks had delivered them."""
        call_context.bind(pipeline_id=request.pipeline_id)
        async with aclosing(self._simulations.stream(request)) as messages:
            async for message in messages:
                yield pb.SimulateWebhookSyncResponse(message=message)

    async def PushWebhook(
        self, request: pb.PushWebhookRequest, context: Context
    ) -> pb.PushWebhookResponse:
        """Store the event of one webhook delivery."""
        await check_named(request)
        call_context.bind(pipeline_id=request.pipeline_id)
        delivery = request.delivery
        receipt = await self._receiver.receive(
            request.pipeline_id,
            delivery.body,
            delivery.headers,
            ingress="rpc",
            caller=peer.get().address,
        )
        return pb.PushWebhookResponse(event_id=receipt.event_id, duplicate=receipt.is_duplicate)

    async def ListWebhookEvents(
        self, request: pb.ListWebhookEventsRequest, context: Context
    ) -> pb.ListWebhookEventsResponse:
        """Return a page of a pipeline's webhook events."""
        call_context.bind(pipeline_id=request.pipeline_id)
        return await self._webhook_events.list_page(request)

    async def ReplayWebhookEvents(
        self, request: pb.ReplayWebhookEventsRequest, context: Context
    ) -> pb.ReplayWebhookEventsResponse:
        """Schedule webhook events to be applied again."""
        call_context.bind(pipeline_id=request.pipeline_id)
        return await self._webhook_events.replay(request)

    async def RetryRejectedRecords(
        self, request: pb.RetryRejectedRecordsRequest, context: Context
    ) -> pb.RetryRejectedRecordsResponse:
        """Write the records that the destination rejected again."""
        await check_named(request)
        call_context.bind(pipeline_id=request.pipeline_id)
        return await self._rejected_records.retry(request.pipeline_id)

    async def ListRuns(self, request: pb.ListRunsRequest, context: Context) -> pb.ListRunsResponse:
        """Return a page of a pipeline's runs."""
        call_context.bind(pipeline_id=request.pipeline_id)
        return await self._listing.list_runs(request)

    async def WatchPipeline(
        self, request: pb.WatchPipelineRequest, context: Context
    ) -> AsyncGenerator[pb.WatchPipelineResponse, None]:
        """Yield a pipeline now and after each change."""
        await check_named(request)
        call_context.bind(pipeline_id=request.pipeline_id)
        async with aclosing(self._watches.watch(request.pipeline_id)) as pipelines:
            async for pipeline in pipelines:
                yield pb.WatchPipelineResponse(pipeline=pipeline)
