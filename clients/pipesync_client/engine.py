"""A client of the engine."""

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
from pipesync_rpc.credentials import ClientTls

if TYPE_CHECKING:
    from pipesync.v1.engine_service_pb2_grpc import EngineServiceAsyncStub

# Trying these again does no harm, so a server that restarts goes unnoticed.
_IDEMPOTENT_METHODS = [
    f"/pipesync.v1.EngineService/{method}"
    for method in (
        "ListConnectors",
        "GetConnector",
        "SourceDiscover",
        "PipelineCheck",
        "PipelineSetup",
        "PipelineTeardown",
        "PipelineRetryRejected",
    )
]


class EngineClient:
    """Calls an engine.

    An async context manager. Each method sends one message of the contract and gives back what the
    contract answers; anything but OK is raised as ``pipesync_rpc.errors.RpcError``. A timeout is in
    seconds; None waits as long as it takes. Closing an iterator early cancels its call.
    """

    def __init__(
        self,
        target: str,
        *,
        tls: ClientTls | None = None,
        token: str | None = None,
        proxy: str | None = None,
    ) -> None:
        """Remembers where to go; the connection is made by the first call.

        Args:
            target: ``host:port``, ``dns:///host:port`` or ``unix:/path``.
            tls: None is plain text.
            token: The bearer token, if the server asks for one.
            proxy: ``http://host:port`` of a proxy that leads there; None goes there directly.
        """
        self._connection: Connection[EngineServiceAsyncStub] = Connection(
            target,
            EngineServiceStub,
            tls=tls,
            token=token,
            idempotent_methods=_IDEMPOTENT_METHODS,
            proxy=proxy,
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
        """The connectors that the engine has, with their specs."""
        return await self._connection.one(self._connection.stub.ListConnectors, request, timeout)

    async def get_connector(
        self, request: GetConnectorRequest, *, timeout: float | None = None
    ) -> GetConnectorResponse:
        """One connector's spec."""
        return await self._connection.one(self._connection.stub.GetConnector, request, timeout)

    def source_discover(
        self, request: SourceDiscoverRequest, *, timeout: float | None = None
    ) -> AsyncGenerator[SourceDiscoverResponse, None]:
        """The streams that a source offers: one catalog message, and logs."""
        return self._connection.many(self._connection.stub.SourceDiscover, request, timeout)

    def pipeline_check(
        self, request: PipelineCheckRequest, *, timeout: float | None = None
    ) -> AsyncGenerator[PipelineCheckResponse, None]:
        """Whether the connectors can be reached: connection_status messages, and logs."""
        return self._connection.many(self._connection.stub.PipelineCheck, request, timeout)

    def pipeline_setup(
        self, request: PipelineSetupRequest, *, timeout: float | None = None
    ) -> AsyncGenerator[PipelineSetupResponse, None]:
        """Makes what a sync needs outside: control messages, and logs."""
        return self._connection.many(self._connection.stub.PipelineSetup, request, timeout)

    def pipeline_teardown(
        self, request: PipelineTeardownRequest, *, timeout: float | None = None
    ) -> AsyncGenerator[PipelineTeardownResponse, None]:
        """Removes what setup made: logs."""
        return self._connection.many(self._connection.stub.PipelineTeardown, request, timeout)

    def pipeline_read(
        self, request: PipelineReadRequest, *, timeout: float | None = None
    ) -> AsyncGenerator[PipelineReadResponse, None]:
        """The source's messages alone, ending with eof."""
        return self._connection.many(self._connection.stub.PipelineRead, request, timeout)

    def pipeline_write(
        self, requests: AsyncIterable[PipelineWriteRequest], *, timeout: float | None = None
    ) -> AsyncGenerator[PipelineWriteResponse, None]:
        """Writes the messages after the first request; yields what was committed."""
        return self._connection.exchange(self._connection.stub.PipelineWrite, requests, timeout)

    def pipeline_sync(
        self, request: PipelineSyncRequest, *, timeout: float | None = None
    ) -> AsyncGenerator[PipelineSyncResponse, None]:
        """Source to destination, message by message, ending with eof."""
        return self._connection.many(self._connection.stub.PipelineSync, request, timeout)

    async def pipeline_sync_batch(
        self, request: PipelineSyncBatchRequest, *, timeout: float | None = None
    ) -> PipelineSyncBatchResponse:
        """Source to destination, up to state_limit checkpoints."""
        return await self._connection.one(self._connection.stub.PipelineSyncBatch, request, timeout)

    async def pipeline_retry_rejected(
        self, request: PipelineRetryRejectedRequest, *, timeout: float | None = None
    ) -> PipelineRetryRejectedResponse:
        """Writes the records that the destination rejected once more."""
        return await self._connection.one(
            self._connection.stub.PipelineRetryRejected, request, timeout
        )
