"""Client of the service."""

# The asynchronous stub is a name of the type stubs only.
from __future__ import annotations

from collections.abc import AsyncGenerator
from types import TracebackType
from typing import TYPE_CHECKING, Self

from pipesync.v1.pipeline_service_pb2 import (
    CheckPipelineRequest,
    CheckPipelineResponse,
    CreatePipelineRequest,
    CreatePipelineResponse,
    DeletePipelineRequest,
    DeletePipelineResponse,
    DiscoverSourceRequest,
    DiscoverSourceResponse,
    GetPipelineRequest,
    GetPipelineResponse,
    ListPipelineConnectorsRequest,
    ListPipelineConnectorsResponse,
    ListPipelinesRequest,
    ListPipelinesResponse,
    ListRunsRequest,
    ListRunsResponse,
    ListWebhookEventsRequest,
    ListWebhookEventsResponse,
    PushWebhookRequest,
    PushWebhookResponse,
    ReplayWebhookEventsRequest,
    ReplayWebhookEventsResponse,
    RetryRejectedRecordsRequest,
    RetryRejectedRecordsResponse,
    SetupPipelineRequest,
    SetupPipelineResponse,
    SimulateWebhookSyncRequest,
    SimulateWebhookSyncResponse,
    SyncPipelineBatchRequest,
    SyncPipelineBatchResponse,
    SyncPipelineRequest,
    SyncPipelineResponse,
    TeardownPipelineRequest,
    TeardownPipelineResponse,
    UpdatePipelineRequest,
    UpdatePipelineResponse,
    WatchPipelineRequest,
    WatchPipelineResponse,
)
from pipesync.v1.pipeline_service_pb2_grpc import PipelineServiceStub
from pipesync_client.connection import Connection
from pipesync_rpc.credentials import ClientTls

if TYPE_CHECKING:
    from pipesync.v1.pipeline_service_pb2_grpc import PipelineServiceAsyncStub

# Safe to retry, so that callers do not notice a restarting server.
_IDEMPOTENT_METHODS = [
    f"/pipesync.v1.PipelineService/{method}"
    for method in (
        "ListPipelineConnectors",
        "DiscoverSource",
        "GetPipeline",
        "ListPipelines",
        "CheckPipeline",
        "SetupPipeline",
        "TeardownPipeline",
        "PushWebhook",
        "ListWebhookEvents",
        "ReplayWebhookEvents",
        "ListRuns",
        "WatchPipeline",
    )
]


class PipelineClient:
    """Client of the service that keeps pipelines.

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
    ) -> None:
        """Store the target; the first call connects.

        Args:
            target: ``host:port``, ``dns:///host:port`` or ``unix:/path``.
            tls: TLS settings; None for plain text.
            token: Bearer token; None for a server that requires none.
            proxy: ``http://host:port`` of a proxy that reaches the target; None connects directly.
        """
        self._connection: Connection[PipelineServiceAsyncStub] = Connection(
            target,
            PipelineServiceStub,
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

    async def list_pipeline_connectors(
        self, request: ListPipelineConnectorsRequest, *, timeout: float | None = None
    ) -> ListPipelineConnectorsResponse:
        """Return the engine's connectors, with their specs."""
        return await self._connection.unary_unary(
            self._connection.stub.ListPipelineConnectors, request, timeout
        )

    def discover_source(
        self, request: DiscoverSourceRequest, *, timeout: float | None = None
    ) -> AsyncGenerator[DiscoverSourceResponse, None]:
        """Yield the streams of a source: one catalog message, and logs."""
        return self._connection.unary_stream(self._connection.stub.DiscoverSource, request, timeout)

    async def create_pipeline(
        self, request: CreatePipelineRequest, *, timeout: float | None = None
    ) -> CreatePipelineResponse:
        """Store a new pipeline."""
        return await self._connection.unary_unary(
            self._connection.stub.CreatePipeline, request, timeout
        )

    async def get_pipeline(
        self, request: GetPipelineRequest, *, timeout: float | None = None
    ) -> GetPipelineResponse:
        """Return one pipeline, its secrets masked."""
        return await self._connection.unary_unary(
            self._connection.stub.GetPipeline, request, timeout
        )

    async def list_pipelines(
        self, request: ListPipelinesRequest, *, timeout: float | None = None
    ) -> ListPipelinesResponse:
        """Return one page of pipelines, ordered by id."""
        return await self._connection.unary_unary(
            self._connection.stub.ListPipelines, request, timeout
        )

    async def update_pipeline(
        self, request: UpdatePipelineRequest, *, timeout: float | None = None
    ) -> UpdatePipelineResponse:
        """Change the fields in update_mask."""
        return await self._connection.unary_unary(
            self._connection.stub.UpdatePipeline, request, timeout
        )

    async def delete_pipeline(
        self, request: DeletePipelineRequest, *, timeout: float | None = None
    ) -> DeletePipelineResponse:
        """Tear down a pipeline and delete it."""
        return await self._connection.unary_unary(
            self._connection.stub.DeletePipeline, request, timeout
        )

    def check_pipeline(
        self, request: CheckPipelineRequest, *, timeout: float | None = None
    ) -> AsyncGenerator[CheckPipelineResponse, None]:
        """Yield whether the connectors are reachable: connection_status messages, and logs."""
        return self._connection.unary_stream(self._connection.stub.CheckPipeline, request, timeout)

    def setup_pipeline(
        self, request: SetupPipelineRequest, *, timeout: float | None = None
    ) -> AsyncGenerator[SetupPipelineResponse, None]:
        """Create the remote resources that a sync needs; yields logs."""
        return self._connection.unary_stream(self._connection.stub.SetupPipeline, request, timeout)

    def teardown_pipeline(
        self, request: TeardownPipelineRequest, *, timeout: float | None = None
    ) -> AsyncGenerator[TeardownPipelineResponse, None]:
        """Remove the resources that setup created; yields logs."""
        return self._connection.unary_stream(
            self._connection.stub.TeardownPipeline, request, timeout
        )

    def sync_pipeline(
        self, request: SyncPipelineRequest, *, timeout: float | None = None
    ) -> AsyncGenerator[SyncPipelineResponse, None]:
        """Sync from the stored state, message by message, ending with eof."""
        return self._connection.unary_stream(self._connection.stub.SyncPipeline, request, timeout)

    async def sync_pipeline_batch(
        self, request: SyncPipelineBatchRequest, *, timeout: float | None = None
    ) -> SyncPipelineBatchResponse:
        """Sync from the stored state, up to state_limit checkpoints."""
        return await self._connection.unary_unary(
            self._connection.stub.SyncPipelineBatch, request, timeout
        )

    def simulate_webhook_sync(
        self, request: SimulateWebhookSyncRequest, *, timeout: float | None = None
    ) -> AsyncGenerator[SimulateWebhookSyncResponse, None]:
        """Sync recent events as if they had arrived by webhook."""
        return self._connection.unary_stream(
            self._connection.stub.SimulateWebhookSync, request, timeout
        )

    async def push_webhook(
        self, request: PushWebhookRequest, *, timeout: float | None = None
    ) -> PushWebhookResponse:
        """Deliver one webhook."""
        return await self._connection.unary_unary(
            self._connection.stub.PushWebhook, request, timeout
        )

    async def list_webhook_events(
        self, request: ListWebhookEventsRequest, *, timeout: float | None = None
    ) -> ListWebhookEventsResponse:
        """Return one page of a pipeline's webhook events, the latest arrival first."""
        return await self._connection.unary_unary(
            self._connection.stub.ListWebhookEvents, request, timeout
        )

    async def replay_webhook_events(
        self, request: ReplayWebhookEventsRequest, *, timeout: float | None = None
    ) -> ReplayWebhookEventsResponse:
        """Apply webhook events again."""
        return await self._connection.unary_unary(
            self._connection.stub.ReplayWebhookEvents, request, timeout
        )

    async def retry_rejected_records(
        self, request: RetryRejectedRecordsRequest, *, timeout: float | None = None
    ) -> RetryRejectedRecordsResponse:
        """Retry the records that the destination rejected."""
        return await self._connection.unary_unary(
            self._connection.stub.RetryRejectedRecords, request, timeout
        )

    async def list_runs(
        self, request: ListRunsRequest, *, timeout: float | None = None
    ) -> ListRunsResponse:
        """Return one page of a pipeline's runs, newest first."""
        return await self._connection.unary_unary(self._connection.stub.ListRuns, request, timeout)

    def watch_pipeline(
        self, request: WatchPipelineRequest, *, timeout: float | None = None
    ) -> AsyncGenerator[WatchPipelineResponse, None]:
        """Yield the pipeline now, and again whenever it changes."""
        return self._connection.unary_stream(self._connection.stub.WatchPipeline, request, timeout)
