"""Syncs recent events as if they had come in by webhook: to try a pipeline without a webhook."""

from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from functools import partial

from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync.v1.catalog_pb2 import PipelineConfig
from pipesync.v1.engine_service_pb2 import SyncOptions
from pipesync.v1.message_pb2 import Message, RecentEvents, SourceInput
from pipesync.v1.progress_pb2 import RUN_STATUS_STARTED
from pipesync.v1.state_pb2 import Eof, Resumption, SyncState
from pipesync_rpc.errors import FieldViolation
from service_server import checks
from service_server.beside import store_beside
from service_server.dead_letters import DeadLetters
from service_server.engine import FIELDS_OF_A_PIPELINE, Messages
from service_server.errors import (
    InvalidRequest,
    PipelineBeingDeleted,
    PipelinePaused,
    PipelineTornDown,
)
from service_server.in_flight import Send
from service_server.inputs import CallInputs
from service_server.leases import Lease
from service_server.parts import Parts
from service_server.recorder import at_last
from service_server.rewinds import log_rewinds
from service_server.soft_end import EndedSoftly, SoftEnd
from service_server.store import states
from service_server.store.states import StoredState

_DEFAULT_AGE = timedelta(days=1)


class Simulations:
    """The simulated webhooks of this process. Each has its pipeline to itself.

    Events move no checkpoint, so where it is cut nothing is lost. Those that fail are stored. The
    others are not: their position is, so that the streams of a destination that loses them are read
    from the start.
    """

    def __init__(self, parts: Parts) -> None:
        """Takes what it stands on."""
        self._pipelines = parts.pipelines
        self._engine = parts.engine
        self._connectors = parts.connectors
        self._database = parts.database
        self._leases = parts.leases
        self._in_flight = parts.in_flight
        self._metrics = parts.metrics
        self._soft_end = SoftEnd()

    def end_softly(self) -> None:
        """Has each end now, with has_more."""
        self._soft_end.wish()

    def stream(self, request: pb.SimulateWebhookSyncRequest) -> Messages:
        """Fetches and syncs, and yields every message; ends when the caller does.

        Raises:
            InvalidRequest: names the bad field.
            PipelineNotFound: there is no such pipeline.
            PipelinePaused: it is paused.
            PipelineBeingDeleted: it is being deleted.
            PipelineTornDown: its tables were removed.
            SyncInProgress: a sync of it is under way.
            RpcError: the engine cannot do it.
        """
        return self._in_flight.relay(lambda send: self._stream(request, send))

    async def _stream(self, request: pb.SimulateWebhookSyncRequest, send: Send) -> None:
        checks.check_pipeline_id(request.id, field="id")
        inputs = [SourceInput(recent_events=_recent_events(request))]
        await self._config(request.id)
        last: Message | None = None
        async with self._leases.hold(request.id) as lease:
            # It may have changed while events were waited for.
            config = await self._config(request.id)
            letters = DeadLetters(request.id, self._metrics)
            async with self._database.connection() as connection:
                before = await states.load(connection, request.id)
            state = before.state
            position = CallInputs(request.id, before.inputs, state, keeps=False)
            options = SyncOptions(state=state, replayable_inputs=position.replayable)
            messages = self._engine.sync(config, options, FIELDS_OF_A_PIPELINE, inputs)
            with self._metrics.syncs_running.track_inprogress():
                try:
                    async with aclosing(messages), self._soft_end.cutting():
                        async for message in messages:
                            if message.HasField("dead_letter"):
                                letters.add(message.dead_letter)
                                await at_last(partial(self._store, lease, letters))
                            if message.HasField("resumption"):
                                position.resume(message.resumption)
                                log_rewinds(request.id, message.resumption)
                                found = (before, message.resumption, position)
                                await at_last(partial(self._store_resumption, lease, *found))
                            if message.HasField("eof"):
                                last = message
                                position.finish(message.eof)
                                await at_last(partial(self._store_position, lease, position))
                            else:
                                await send(await self._connectors.masked(message, config))
                except EndedSoftly:
                    last = last or _cut_short(state)
        # The pipeline is free by the time that the caller is told so.
        if last is not None:
            await send(last)

    async def _config(self, pipeline_id: str) -> PipelineConfig:
        stored = await self._pipelines.load(pipeline_id)
        if stored.pipeline.desired_status == pb.DESIRED_STATUS_PAUSED:
            raise PipelinePaused(pipeline_id)
        if stored.pipeline.desired_status == pb.DESIRED_STATUS_DELETED:
            raise PipelineBeingDeleted(pipeline_id)
        if stored.is_torn_down:
            raise PipelineTornDown(pipeline_id)
        return self._pipelines.open_config(stored)

    async def _store(self, lease: Lease, letters: DeadLetters) -> None:
        unstored = letters.unstored()
        async with self._database.transaction() as connection:
            await lease.require(connection)
            await unstored.store(connection)
        unstored.done()

    async def _store_resumption(
        self, lease: Lease, before: StoredState, resumption: Resumption, position: CallInputs
    ) -> None:
        async with self._database.transaction() as connection:
            await lease.require(connection)
            await store_beside(connection, lease.pipeline_id, before, resumption, position)

    async def _store_position(self, lease: Lease, position: CallInputs) -> None:
        async with self._database.transaction() as connection:
            await lease.require(connection)
            await position.store(connection)


def _recent_events(request: pb.SimulateWebhookSyncRequest) -> RecentEvents:
    if request.limit < 0:
        raise InvalidRequest([FieldViolation("limit", "must be 1 or more, or 0 for all")])
    recent = RecentEvents(limit=request.limit)
    if request.HasField("created_after"):
        recent.created_after.CopyFrom(request.created_after)
    else:
        recent.created_after.FromDatetime(datetime.now(UTC) - _DEFAULT_AGE)
    return recent


def _cut_short(state: SyncState | None) -> Message:
    eof = Eof(status=RUN_STATUS_STARTED, has_more=True, ending_state=state)
    message = Message(emitted_by="service", eof=eof)
    message.ts.GetCurrentTime()
    return message
