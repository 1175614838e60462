"""RPC methods of the engine; each validates its whole request before any work."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc.aio

from engine_server import operations
from engine_server.connectors.protocols import SelectedStream
from engine_server.connectors.registry import ConnectorRegistry
from engine_server.errors import UnknownConnector, Violations
from engine_server.flush_times import FlushTimes
from engine_server.operations import Side
from engine_server.sync.checks.options import check_options
from engine_server.sync.checks.pipeline import (
    check_destination,
    check_source,
    check_source_config,
    check_write_streams,
)
from engine_server.sync.checks.write_requests import write_messages
from engine_server.sync.plan.plan import SyncPlan
from engine_server.sync.plan.plan_sync import plan_sync
from engine_server.sync.run.rejected import retry_rejected
from engine_server.sync.run.running_syncs import RunningSyncs
from pipesync.v1 import engine_service_pb2 as pb
from pipesync.v1.engine_service_pb2_grpc import EngineServiceServicer
from pipesync.v1.state_pb2 import Eof
from pipesync_server.request_check import check_request

DEFAULT_BATCH_STATE_LIMIT = 1000

Context = grpc.aio.ServicerContext[Any, Any]
SidesRequest = (
    pb.PipelineCheckRequest
    | pb.PipelineSetupRequest
    | pb.PipelineTeardownRequest
    | pb.PipelinePlanTeardownRequest
)


class EngineServicer(EngineServiceServicer):
    """Implementation of EngineService.

    Keeps no data of a finished request except the durations of its flushes.
    """

    def __init__(self, registry: ConnectorRegistry) -> None:
        self._registry = registry
        self._syncs = RunningSyncs()
        self._flush_times = FlushTimes()

    def request_shutdown(self) -> None:
        """Start a graceful shutdown: every sync stops reading, flushes and ends with ``has_more``.

        A sync whose request is still being validated reads nothing.
        """
        self._syncs.request_shutdown()

    async def ListConnectors(
        self, request: pb.ListConnectorsRequest, context: Context
    ) -> pb.ListConnectorsResponse:
        violations = Violations(await check_request(request))
        violations.raise_if_any()
        return pb.ListConnectorsResponse(connectors=self._registry.describe_all(request.side))

    async def GetConnector(
        self, request: pb.GetConnectorRequest, context: Context
    ) -> pb.GetConnectorResponse:
        violations = Violations(await check_request(request))
        if not request.side:
            violations.add("side", "must be CONNECTOR_SIDE_SOURCE or CONNECTOR_SIDE_DESTINATION")
        if not request.type:
            violations.add("type", "is required")
        violations.raise_if_any()
        try:
            connector = self._registry.describe(request.side, request.type)
        except UnknownConnector as error:
            raise error.at("type") from None
        return pb.GetConnectorResponse(connector=connector)

    async def SourceDiscover(
        self, request: pb.SourceDiscoverRequest, context: Context
    ) -> AsyncGenerator[pb.SourceDiscoverResponse, None]:
        violations = Violations(await check_request(request))
        source = check_source_config(self._registry, request.source, "source", violations)
        violations.raise_if_any()
        async with aclosing(operations.discover(source.value)) as messages:
            async for message in messages:
                yield pb.SourceDiscoverResponse(message=message)

    async def PipelineCheck(
        self, request: pb.PipelineCheckRequest, context: Context
    ) -> AsyncGenerator[pb.PipelineCheckResponse, None]:
        sides, streams = await self._sides(request)
        if request.validate_only:
            return
        async with aclosing(operations.check(sides, streams)) as messages:
            async for message in messages:
                yield pb.PipelineCheckResponse(message=message)

    async def PipelineSetup(
        self, request: pb.PipelineSetupRequest, context: Context
    ) -> AsyncGenerator[pb.PipelineSetupResponse, None]:
        sides, streams = await self._sides(request)
        async with aclosing(operations.setup(sides, streams)) as messages:
            async for message in messages:
                yield pb.PipelineSetupResponse(message=message)

    async def PipelineTeardown(
        self, request: pb.PipelineTeardownRequest, context: Context
    ) -> AsyncGenerator[pb.PipelineTeardownResponse, None]:
        sides, streams = await self._sides(request)
        async with aclosing(operations.teardown(sides, streams)) as messages:
            async for message in messages:
                yield pb.PipelineTeardownResponse(message=message)

    async def PipelinePlanTeardown(
        self, request: pb.PipelinePlanTeardownRequest, context: Context
    ) -> AsyncGenerator[pb.PipelinePlanTeardownResponse, None]:
        sides, streams = await self._sides(request)
        async with aclosing(operations.plan_teardown(sides, streams)) as messages:
            async for message in messages:
                yield pb.PipelinePlanTeardownResponse(message=message)

    async def PipelineRead(
        self, request: pb.PipelineReadRequest, context: Context
    ) -> AsyncGenerator[pb.PipelineReadResponse, None]:
        violations = Violations(await check_request(request))
        check_options(request.options, violations, has_inputs=bool(request.inputs))
        checked = await check_source(self._registry, request.pipeline, violations, request.inputs)
        violations.raise_if_any()
        source, streams = checked.value
        plan = plan_sync(
            request,
            source,
            None,
            streams,
            default_state_limit=None,
            seconds_to_deadline=context.time_remaining(),
            flush_times=self._flush_times,
        )
        async with aclosing(self._syncs.run(plan)) as messages:
            async for message in messages:
                yield pb.PipelineReadResponse(message=message)

    async def PipelineWrite(
        self, request_iterator: AsyncIterator[pb.PipelineWriteRequest], context: Context
    ) -> AsyncGenerator[pb.PipelineWriteResponse, None]:
        requests = aiter(request_iterator)
        first = await anext(requests, pb.PipelineWriteRequest())
        violations = Violations(await check_request(first))
        if not first.HasField("pipeline"):
            violations.add("pipeline", "must be in the first request")
        violations.raise_if_any()
        streams = await check_write_streams(self._registry, first.pipeline, requests, violations)
        destination = check_destination(self._registry, first.pipeline, violations)
        violations.raise_if_any()
        async with aclosing(
            operations.write(destination.value, streams.value, write_messages(requests))
        ) as messages:
            async for message in messages:
                yield pb.PipelineWriteResponse(message=message)

    async def PipelineSync(
        self, request: pb.PipelineSyncRequest, context: Context
    ) -> AsyncGenerator[pb.PipelineSyncResponse, None]:
        plan = await self._sync_plan(
            request, context, default_state_limit=None, listens=not request.inputs
        )
        async with aclosing(self._syncs.run(plan)) as messages:
            async for message in messages:
                if not message.HasField("record_batch"):
                    yield pb.PipelineSyncResponse(message=message)

    async def PipelineSyncBatch(
        self, request: pb.PipelineSyncBatchRequest, context: Context
    ) -> pb.PipelineSyncBatchResponse:
        plan = await self._sync_plan(
            request, context, default_state_limit=DEFAULT_BATCH_STATE_LIMIT
        )
        eof = Eof()
        async with aclosing(self._syncs.run(plan)) as messages:
            async for message in messages:
                if message.HasField("eof"):
                    eof = message.eof
        return pb.PipelineSyncBatchResponse(eof=eof)

    async def PipelineRetryRejected(
        self, request: pb.PipelineRetryRejectedRequest, context: Context
    ) -> pb.PipelineRetryRejectedResponse:
        pipeline = request.pipeline
        violations = Violations(await check_request(request))
        source = await check_source(self._registry, pipeline, violations)
        destination = check_destination(self._registry, pipeline, violations)
        violations.raise_if_any()
        _, streams = source.value
        result = await retry_rejected(destination.value, streams)
        return pb.PipelineRetryRejectedResponse(
            retried_record_count=result.retried,
            written_record_count=result.written,
            rejected_record_count=result.rejected,
        )

    async def _sync_plan(
        self,
        request: pb.PipelineSyncRequest | pb.PipelineSyncBatchRequest,
        context: Context,
        *,
        default_state_limit: int | None,
        listens: bool = False,
    ) -> SyncPlan:
        violations = Violations(await check_request(request))
        check_options(request.options, violations, has_inputs=bool(request.inputs))
        checked = await check_source(self._registry, request.pipeline, violations, request.inputs)
        destination = check_destination(self._registry, request.pipeline, violations)
        violations.raise_if_any()
        source, streams = checked.value
        return plan_sync(
            request,
            source,
            destination.value,
            streams,
            default_state_limit=default_state_limit,
            seconds_to_deadline=context.time_remaining(),
            flush_times=self._flush_times,
            listens=listens,
        )

    async def _sides(self, request: SidesRequest) -> tuple[list[Side], list[SelectedStream]]:
        """Return the sides of an operation and the streams, which only the source knows."""
        pipeline = request.pipeline
        wants_source = request.side != pb.CONNECTOR_SIDE_DESTINATION
        wants_destination = request.side != pb.CONNECTOR_SIDE_SOURCE
        violations = Violations(await check_request(request))
        source = destination = None
        if wants_source or pipeline.source.type:
            source = await check_source(self._registry, pipeline, violations)
        if wants_destination:
            destination = check_destination(self._registry, pipeline, violations)
        violations.raise_if_any()
        sides: list[Side] = []
        streams: list[SelectedStream] = []
        if source is not None:
            resolved, streams = source.value
            sides += [resolved] if wants_source else []
        if destination is not None:
            sides.append(destination.value)
        return sides, streams
