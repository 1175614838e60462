"""Client of the engine."""

# The asynchronous stub is a name of the type stubs only.
from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from pipesync.v1.engine_service_pb2 import (
    GetConnectorRequest,
    GetConnectorResponse,
    ListConnectorsRequest,
    ListConnectorsResponse,
    PipelineCheckRequest,
    PipelineCheckResponse,
    PipelinePlanTeardownRequest,
    PipelinePlanTeardownResponse,
    PipelineReadRequest,
    PipelineReadResponse,
    PipelineRetryRejectedRequest,
    PipelineRetryRejectedResponse,
    PipelineSetupRequest,
    PipelineSetupResponse,
    PipelineSyncBatchRequest,
    PipelineSyncBatchResponse,
    PipelineSyncRequest,
    PipelineSyncResponse,
    PipelineTeardownRequest,
    PipelineTeardownResponse,
    PipelineWriteRequest,
    PipelineWriteResponse,
    SourceDiscoverRequest,
    SourceDiscoverResponse,
)
from pipesync.v1.engine_service_pb2_grpc import EngineServiceStub
from pipesync_client.connection import Connection
from pipesync_rpc.client_interceptor import CallMetadata, no_further_metadata
from pipesync_rpc.credentials import ClientTls

if TYPE_CHECKING:
    from pipesync.v1.engine_service_pb2_grpc import EngineServiceAsyncStub

# Safe to retry, so that callers do not notice a restarting server.
_IDEMPOTENT_METHODS = [
    f"/pipesync.v1.EngineService/{method}"
    for method in (
        "ListConnectors",
        "GetConnector",
        "SourceDiscover",
        "PipelineCheck",
        "PipelineSetup",
        "PipelineTeardown",
        "PipelinePlanTeardown",
        "PipelineRetryRejected",
    )
]


class EngineClient:
    """Client of an engine.

    An async context manager. Each method sends one message of the contract and returns its
    response; a status other than OK is raised as ``pipesync_rpc.errors.RpcError``. Timeouts are in
    seconds; None waits without a limit. Closing an iterator early cancels its call.
    """

    def __init__(
        self,
        target: str,
        *,
        tls: ClientTls | None = None,
        token: str | None = None,
        proxy: str | None = None,
        metadata: CallMetadata = no_further_metadata,
    ) -> None:
        """Store the target; the first call connects.

        Args:
            target: ``host:port``, ``dns:///host:port`` or ``unix:/path``.
            tls: TLS settings; None for plain text.
            token: Bearer token; None for a server that requires none.
            proxy: ``http://host:port`` of a proxy that reaches the target; None connects directly.
            metadata: Returns additional metadata for each call.
        """
        self._connection: Connection[EngineServiceAsyncStub] = Connection(
            target,
            EngineServiceStub,
            tls=tls,
            token=token,
            idempotent_methods=_IDEMPOTENT_METHODS,
            proxy=proxy,
            metadata=metadata,
        )

    async def __aenter__(self) -> Self:
        await self._connection.__aenter__()
        return self

    async def __aexit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._connection.__aexit__(exception_type, exception, traceback)

    async def list_connectors(
        self, request: ListConnectorsRequest, *, timeout: float | None = None
    ) -> ListConnectorsResponse:
        """Return the engine's connectors, with their specs."""
        return await self._connection.unary_unary(
            self._connection.stub.ListConnectors, request, timeout
        )

    async def get_connector(
        self, request: GetConnectorRequest, *, timeout: float | None = None
    ) -> GetConnectorResponse:
        """Return one connector's spec."""
        return await self._connection.unary_unary(
            self._connection.stub.GetConnector, request, timeout
        )

    def source_discover(
        self, request: SourceDiscoverRequest, *, timeout: float | None = None
    ) -> AsyncGenerator[SourceDiscoverResponse, None]:
        """Yield the streams of a source: one catalog message, and logs."""
        return self._connection.unary_stream(self._connection.stub.SourceDiscover, request, timeout)

    def pipeline_check(
        self, request: PipelineCheckRequest, *, timeout: float | None = None
    ) -> AsyncGenerator[PipelineCheckResponse, None]:
        """Yield whether the connectors are reachable: connection_status messages, and logs."""
        return self._connection.unary_stream(self._connection.stub.PipelineCheck, request, timeout)

    def pipeline_setup(
        self, request: PipelineSetupRequest, *, timeout: float | None = None
    ) -> AsyncGenerator[PipelineSetupResponse, None]:
        """Create the remote resources that a sync needs; yields control messages, and logs."""
        return self._connection.unary_stream(self._connection.stub.PipelineSetup, request, timeout)

    def pipeline_teardown(
        self, request: PipelineTeardownRequest, *, timeout: float | None = None
    ) -> AsyncGenerator[PipelineTeardownResponse, None]:
        """Remove the resources that setup created; yields logs."""
        return self._connection.unary_stream(
            self._connection.stub.PipelineTeardown, request, timeout
        )

    def pipeline_plan_teardown(
        self, request: PipelinePlanTeardownRequest, *, timeout: float | None = None
    ) -> AsyncGenerator[PipelinePlanTeardownResponse, None]:
        """Yield the resources that a teardown would remove: planned_removal messages, and logs."""
        return self._connection.unary_stream(
            self._connection.stub.PipelinePlanTeardown, request, timeout
        )

    def pipeline_read(
        self, request: PipelineReadRequest, *, timeout: float | None = None
    ) -> AsyncGenerator[PipelineReadResponse, None]:
        """Yield the source's messages alone, ending with eof."""
        return self._connection.unary_stream(self._connection.stub.PipelineRead, request, timeout)

    def pipeline_write(
        self, requests: AsyncIterable[PipelineWriteRequest], *, timeout: float | None = None
    ) -> AsyncGenerator[PipelineWriteResponse, None]:
        """Write the messages that follow the first request; yields the commits."""
        return self._connection.stream_stream(
            self._connection.stub.PipelineWrite, requests, timeout
        )

    def pipeline_sync(
        self, request: PipelineSyncRequest, *, timeout: float | None = None
    ) -> AsyncGenerator[PipelineSyncResponse, None]:
        """Sync source to destination, message by message, ending with eof."""
        return self._connection.unary_stream(self._connection.stub.PipelineSync, request, timeout)

    async def pipeline_sync_batch(
        self, request: PipelineSyncBatchRequest, *, timeout: float | None = None
    ) -> PipelineSyncBatchResponse:
        """Sync source to destination, up to state_limit checkpoints."""
        return await self._connection.unary_unary(
            self._connection.stub.PipelineSyncBatch, request, timeout
        )

    async def pipeline_retry_rejected(
        self, request: PipelineRetryRejectedRequest, *, timeout: float | None = None
    ) -> PipelineRetryRejectedResponse:
        """Retry the records that the destination rejected."""
        return await self._connection.unary_unary(
            self._connection.stub.PipelineRetryRejected, request, timeout
        )
