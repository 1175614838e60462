"""A client of the service."""

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

# Trying these again does no harm, so a server that restarts goes unnoticed.
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
    """Calls the service that keeps pipelines.

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
        """The connectors that the engine has, with their specs."""
        return await self._connection.one(
            self._connection.stub.ListPipelineConnectors, request, timeout
        )

    def discover_source(
        self, request: DiscoverSourceRequest, *, timeout: float | None = None
    ) -> AsyncGenerator[DiscoverSourceResponse, None]:
        """The streams that a source offers: one catalog message, and logs."""
        return self._connection.many(self._connection.stub.DiscoverSource, request, timeout)

    async def create_pipeline(
        self, request: CreatePipelineRequest, *, timeout: float | None = None
    ) -> CreatePipelineResponse:
        """Stores a new pipeline."""
        return await self._connection.one(self._connection.stub.CreatePipeline, request, timeout)

    async def get_pipeline(
        self, request: GetPipelineRequest, *, timeout: float | None = None
    ) -> GetPipelineResponse:
        """One pipeline, its secrets masked."""
        return await self._connection.one(self._connection.stub.GetPipeline, request, timeout)

    async def list_pipelines(
        self, request: ListPipelinesRequest, *, timeout: float | None = None
    ) -> ListPipelinesResponse:
        """One page of pipelines, ordered by id."""
        return await self._connection.one(self._connection.stub.ListPipelines, request, timeout)

    async def update_pipeline(
        self, request: UpdatePipelineRequest, *, timeout: float | None = None
    ) -> UpdatePipelineResponse:
        """Changes the fields in update_mask."""
        return await self._connection.one(self._connection.stub.UpdatePipeline, request, timeout)

    async def delete_pipeline(
        self, request: DeletePipelineRequest, *, timeout: float | None = None
    ) -> DeletePipelineResponse:
        """Tears a pipeline down and forgets it."""
        return await self._connection.one(self._connection.stub.DeletePipeline, request, timeout)

    def check_pipeline(
        self, request: CheckPipelineRequest, *, timeout: float | None = None
    ) -> AsyncGenerator[CheckPipelineResponse, None]:
        """Whether the connectors can be reached: connection_status messages, and logs."""
        return self._connection.many(self._connection.stub.CheckPipeline, request, timeout)

    def setup_pipeline(
        self, request: SetupPipelineRequest, *, timeout: float | None = None
    ) -> AsyncGenerator[SetupPipelineResponse, None]:
        """Makes what a sync needs outside: logs."""
        return self._connection.many(self._connection.stub.SetupPipeline, request, timeout)

    def teardown_pipeline(
        self, request: TeardownPipelineRequest, *, timeout: float | None = None
    ) -> AsyncGenerator[TeardownPipelineResponse, None]:
        """Removes what setup made: logs."""
        return self._connection.many(self._connection.stub.TeardownPipeline, request, timeout)

    def sync_pipeline(
        self, request: SyncPipelineRequest, *, timeout: float | None = None
    ) -> AsyncGenerator[SyncPipelineResponse, None]:
        """Syncs from the stored state, message by message, ending with eof."""
        return self._connection.many(self._connection.stub.SyncPipeline, request, timeout)

    async def sync_pipeline_batch(
        self, request: SyncPipelineBatchRequest, *, timeout: float | None = None
    ) -> SyncPipelineBatchResponse:
        """Syncs from the stored state, up to state_limit checkpoints."""
        return await self._connection.one(self._connection.stub.SyncPipelineBatch, request, timeout)

    def simulate_webhook_sync(
        self, request: SimulateWebhookSyncRequest, *, timeout: float | None = None
    ) -> AsyncGenerator[SimulateWebhookSyncResponse, None]:
        """Syncs recent events as if they had come in by webhook."""
        return self._connection.many(self._connection.stub.SimulateWebhookSync, request, timeout)

    async def push_webhook(
        self, request: PushWebhookRequest, *, timeout: float | None = None
    ) -> PushWebhookResponse:
        """Hands in one webhook delivery."""
        return await self._connection.one(self._connection.stub.PushWebhook, request, timeout)

    async def list_webhook_events(
        self, request: ListWebhookEventsRequest, *, timeout: float | None = None
    ) -> ListWebhookEventsResponse:
        """One page of a pipeline's webhook events, the latest arrival first."""
        return await self._connection.one(self._connection.stub.ListWebhookEvents, request, timeout)

    async def replay_webhook_events(
        self, request: ReplayWebhookEventsRequest, *, timeout: float | None = None
    ) -> ReplayWebhookEventsResponse:
        """Has webhook events applied again."""
        return await self._connection.one(
            self._connection.stub.ReplayWebhookEvents, request, timeout
        )

    async def retry_rejected_records(
        self, request: RetryRejectedRecordsRequest, *, timeout: float | None = None
    ) -> RetryRejectedRecordsResponse:
        """Writes the records that the destination rejected once more."""
        return await self._connection.one(
            self._connection.stub.RetryRejectedRecords, request, timeout
        )

    async def list_runs(
        self, request: ListRunsRequest, *, timeout: float | None = None
    ) -> ListRunsResponse:
        """One page of a pipeline's runs, newest first."""
        return await self._connection.one(self._connection.stub.ListRuns, request, timeout)

    def watch_pipeline(
        self, request: WatchPipelineRequest, *, timeout: float | None = None
    ) -> AsyncGenerator[WatchPipelineResponse, None]:
        """The pipeline now, and again whenever it changes."""
        return self._connection.many(self._connection.stub.WatchPipeline, request, timeout)
