"""The engine's RPCs: each checks its whole request, then passes messages on."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc.aio

from engine_server import operations
from engine_server.connectors.protocols import Messages, SelectedStream
from engine_server.connectors.registry import ConnectorRegistry
from engine_server.errors import Violations
from engine_server.flush_times import FlushTimes
from engine_server.operations import Side
from engine_server.options import check_options
from engine_server.pipeline import (
    resolve_destination,
    resolve_source,
    resolve_streams,
)
from engine_server.plan import SyncPlan
from engine_server.planning import plan_sync
from engine_server.rejected import retry_rejected
from engine_server.running import RunningSyncs
from engine_server.selection import select_streams
from pipesync.v1 import engine_service_pb2 as pb
from pipesync.v1.engine_service_pb2_grpc import EngineServiceServicer
from pipesync.v1.state_pb2 import Eof

DEFAULT_BATCH_STATE_LIMIT = 1000

Context = grpc.aio.ServicerContext[Any, Any]
SidesRequest = pb.PipelineCheckRequest | pb.PipelineSetupRequest | pb.PipelineTeardownRequest


class EngineServicer(EngineServiceServicer):
    """Serves EngineService.

    Remembers nothing of a request once it has ended, but for how long its flushes took.
    """

    def __init__(self, registry: ConnectorRegistry) -> None:
        self._registry = registry
        self._syncs = RunningSyncs()
        self._flush_times = FlushTimes()

    def end_softly(self) -> None:
        """Has every sync stop reading now: it flushes, and answers with has_more.

        A sync whose request is still being checked reads nothing at all.
        """
        self._syncs.end_softly()

    async def ListConnectors(
        self, request: pb.ListConnectorsRequest, context: Context
    ) -> pb.ListConnectorsResponse:
        return pb.ListConnectorsResponse(connectors=self._registry.describe_all(request.side))

    async def GetConnector(
        self, request: pb.GetConnectorRequest, context: Context
    ) -> pb.GetConnectorResponse:
        violations = Violations()
        if not request.side:
            violations.add("side", "must be CONNECTOR_SIDE_SOURCE or CONNECTOR_SIDE_DESTINATION")
        if not request.type:
            violations.add("type", "is required")
        violations.raise_if_any()
        connector = self._registry.describe(request.side, request.type)
        return pb.GetConnectorResponse(connector=connector)

    async def SourceDiscover(
        self, request: pb.SourceDiscoverRequest, context: Context
    ) -> AsyncGenerator[pb.SourceDiscoverResponse, None]:
        source = resolve_source(self._registry, request.source, "source")
        async with aclosing(operations.discover(source)) as messages:
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

    async def PipelineRead(
        self, request: pb.PipelineReadRequest, context: Context
    ) -> AsyncGenerator[pb.PipelineReadResponse, None]:
        violations = Violations()
        check_options(request.options, violations, has_inputs=bool(request.inputs))
        with violations.gather():
            source = resolve_source(self._registry, request.pipeline.source, "pipeline.source")
            streams = await resolve_streams(source, request.pipeline.streams)
        violations.raise_if_any()
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
        violations = Violations()
        if not first.HasField("pipeline"):
            violations.add("pipeline", "must be in the first request")
        violations.raise_if_any()
        with violations.gather():
            streams = await self._written_streams(first, requests)
        with violations.gather():
            destination = resolve_destination(
                self._registry, first.pipeline.destination, "pipeline.destination"
            )
        violations.raise_if_any()
        async with aclosing(
            operations.write(destination, streams, _messages(requests))
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
        violations = Violations()
        with violations.gather():
            source = resolve_source(self._registry, pipeline.source, "pipeline.source")
            streams = await resolve_streams(source, pipeline.streams)
        with violations.gather():
            destination = resolve_destination(
                self._registry, pipeline.destination, "pipeline.destination"
            )
        violations.raise_if_any()
        result = await retry_rejected(destination, streams)
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
        violations = Violations()
        check_options(request.options, violations, has_inputs=bool(request.inputs))
        with violations.gather():
            source = resolve_source(self._registry, request.pipeline.source, "pipeline.source")
            streams = await resolve_streams(source, request.pipeline.streams)
        with violations.gather():
            destination = resolve_destination(
                self._registry, request.pipeline.destination, "pipeline.destination"
            )
        violations.raise_if_any()
        return plan_sync(
            request,
            source,
            destination,
            streams,
            default_state_limit=default_state_limit,
            seconds_to_deadline=context.time_remaining(),
            flush_times=self._flush_times,
            listens=listens,
        )

    async def _sides(self, request: SidesRequest) -> tuple[list[Side], list[SelectedStream]]:
        """The sides that an operation touches, and the streams, which only the source knows."""
        pipeline = request.pipeline
        wants_source = request.only != pb.CONNECTOR_SIDE_DESTINATION
        wants_destination = request.only != pb.CONNECTOR_SIDE_SOURCE
        sides: list[Side] = []
        streams: list[SelectedStream] = []
        violations = Violations()
        with violations.gather():
            if wants_source or pipeline.source.type:
                source = resolve_source(self._registry, pipeline.source, "pipeline.source")
                streams = await resolve_streams(source, pipeline.streams)
                sides += [source] if wants_source else []
        with violations.gather():
            if wants_destination:
                sides.append(
                    resolve_destination(
                        self._registry, pipeline.destination, "pipeline.destination"
                    )
                )
        violations.raise_if_any()
        return sides, streams

    async def _written_streams(
        self, first: pb.PipelineWriteRequest, requests: AsyncIterator[pb.PipelineWriteRequest]
    ) -> list[SelectedStream]:
        """The streams of a write: the source's, or those of a catalog that comes first."""
        pipeline = first.pipeline
        if pipeline.source.type:
            source = resolve_source(self._registry, pipeline.source, "pipeline.source")
            return await resolve_streams(source, pipeline.streams)
        second = await anext(requests, pb.PipelineWriteRequest())
        violations = Violations()
        if not second.message.HasField("catalog"):
            violations.add(
                "message.catalog", "must be the first message of a pipeline without a source"
            )
        violations.raise_if_any()
        return select_streams(second.message.catalog.streams, pipeline.streams, "pipeline.streams")


async def _messages(requests: AsyncIterator[pb.PipelineWriteRequest]) -> Messages:
    async for request in requests:
        yield request.message
