"""Simulated webhooks: syncs of recent events, to try a pipeline without a webhook."""

from datetime import UTC, datetime, timedelta

from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync.v1.engine_service_pb2 import SyncOptions
from pipesync.v1.message_pb2 import RecentEvents, SourceInput
from pipesync_server.request_check import check_request
from service_server import checks
from service_server.engine import Messages
from service_server.errors import Violations
from service_server.leases.in_flight import InFlight, Send
from service_server.pipelines.pipelines import Pipelines
from service_server.store.leases import LeaseKind
from service_server.sync.records.events_record import EventsRecord
from service_server.sync.sessions import SyncSessions

_DEFAULT_AGE = timedelta(days=1)


class Simulations:
    """Runs simulated webhooks, one of each pipeline at a time and not during its syncs.

    Events move no checkpoint, so nothing is lost when a simulation is cancelled. Dead letters are
    stored in the inbox. The other events are not stored, but their position is: if the destination
    loses them, its streams are read from the start.
    """

    def __init__(self, sessions: SyncSessions, pipelines: Pipelines, in_flight: InFlight) -> None:
        self._sessions = sessions
        self._pipelines = pipelines
        self._in_flight = in_flight

    def stream(self, request: pb.SimulateWebhookSyncRequest) -> Messages:
        """Fetch and sync recent events, and yield every message.

        The simulation ends when the caller disconnects.

        Raises:
            InvalidRequest: A field is invalid.
            PipelineNotFound: There is no such pipeline.
            PipelinePaused: The pipeline is paused.
            PipelineBeingDeleted: The pipeline is being deleted.
            PipelineTornDown: The pipeline's tables were removed.
            SyncInProgress: A sync of the pipeline is under way.
            RpcError: The engine failed.
        """
        return self._in_flight.relay(lambda send: self._stream(request, send))

    async def _stream(self, request: pb.SimulateWebhookSyncRequest, send: Send) -> None:
        violations = Violations(await check_request(request))
        with violations.collect():
            checks.check_pipeline_id(request.pipeline_id)
        if request.limit < 0:
            violations.add("limit", "must be 1 or more, or 0 for all")
        violations.raise_if_any()
        inputs = [SourceInput(recent_events=_recent_events(request))]
        # A pipeline that accepts no events is reported at once, even during a sync.
        await self._pipelines.load_active(request.pipeline_id)
        async with self._sessions.open(request.pipeline_id, LeaseKind.EXCLUSIVE) as session:
            basis = await session.load()
            record = EventsRecord(basis, is_from_inbox=False)
            call = await session.call(basis, record, SyncOptions(), inputs=inputs)
            await call.relay(send)
        # The lease is released before the eof is sent, so that the caller can sync at once.
        if call.end is not None:
            await send(call.end)


def _recent_events(request: pb.SimulateWebhookSyncRequest) -> RecentEvents:
    recent = RecentEvents(limit=request.limit)
    if request.HasField("created_after"):
        recent.created_after.CopyFrom(request.created_after)
    else:
        recent.created_after.FromDatetime(datetime.now(UTC) - _DEFAULT_AGE)
    return recent
