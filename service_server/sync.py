"""Syncs a stored pipeline: lease, state in, engine, state out."""

import uuid
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field

from google.protobuf.duration_pb2 import Duration

from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync.v1.catalog_pb2 import Connector, PipelineConfig
from pipesync.v1.engine_service_pb2 import SyncOptions
from pipesync.v1.message_pb2 import Message
from pipesync.v1.state_pb2 import Eof, SyncState
from pipesync_rpc.errors import RpcError
from pipesync_rpc.reasons import Reason
from service_server import checks
from service_server.connectors import SIDES
from service_server.engine import FIELDS_OF_A_PIPELINE, FieldNames, Messages
from service_server.errors import PipelineBeingDeleted, PipelinePaused
from service_server.in_flight import Send
from service_server.inputs import CallInputs
from service_server.leases import Lease
from service_server.parts import Parts
from service_server.recorder import Recorder
from service_server.soft_end import EndedSoftly, SoftEnd
from service_server.store import pipelines, states
from service_server.store.leases import LeaseKind
from service_server.store.states import StoredState
from service_server.subject import Subject

SyncRequest = pb.SyncPipelineRequest | pb.SyncPipelineBatchRequest

# What is kept of a caller's deadline to store and answer: this share of it, two seconds at most.
_DEADLINE_MARGIN_FRACTION = 0.25
_DEADLINE_MARGIN_SECONDS = 2.0
# And at least, unless it is more than half of it: connectors may take half a second to stop.
_LEAST_DEADLINE_MARGIN_SECONDS = 0.75


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What one sync is to do, once it has the lease.

    Attributes:
        config: The stored configuration with this sync's overrides, and with its secrets.
        options: What the engine is asked, but for the state.
        fields: What the caller knows the engine's fields as.
        leads_elsewhere: Whether its configuration leads to another place than the stored one.
        own_source: The stored source, with its secrets; None unless this sync's has other secrets.
    """

    config: PipelineConfig = field(repr=False)
    options: SyncOptions
    fields: FieldNames
    leads_elsewhere: bool = False
    own_source: Connector | None = field(default=None, repr=False)


class Syncs:
    """The syncs of this process: one of a pipeline at a time, events being applied beside it."""

    def __init__(self, parts: Parts) -> None:
        """Takes what it stands on."""
        self._pipelines = parts.pipelines
        self._engine = parts.engine
        self._connectors = parts.connectors
        self._database = parts.database
        self._leases = parts.leases
        self._in_flight = parts.in_flight
        self._metrics = parts.metrics
        self._heartbeats = parts.heartbeats
        self._soft_end = SoftEnd()

    def end_softly(self) -> None:
        """Has every streamed sync end now, with has_more: its latest checkpoint is its last.

        A batch goes on to its end, as nothing is known of it before.
        """
        self._soft_end.wish()

    async def batch(
        self, request: pb.SyncPipelineBatchRequest, seconds_to_deadline: float | None
    ) -> Eof:
        """Syncs up to a limit; to the end, whether or not the caller waits for the answer."""
        return await self._in_flight.finish(self._batch(request, seconds_to_deadline))

    def stream(
        self, request: pb.SyncPipelineRequest, seconds_to_deadline: float | None
    ) -> Messages:
        """Syncs, and yields every message; ends, with all it saw stored, when the caller does."""
        return self._in_flight.relay(lambda send: self._stream(request, seconds_to_deadline, send))

    async def _batch(
        self, request: pb.SyncPipelineBatchRequest, seconds_to_deadline: float | None
    ) -> Eof:
        plan = await self._plan(request, seconds_to_deadline)
        async with self._holding(request.id) as lease:
            recorder = await self._begin(request, plan, lease)
            try:
                eof = await self._engine.sync_batch(plan.config, plan.options, plan.fields)
            except RpcError as error:
                if not _is_refusal(error):
                    recorder.fail(error.message)
                    await recorder.store_at_last()
                raise
            recorder.take_eof(eof)
            await recorder.store_at_last()
        return eof

    async def _stream(
        self, request: pb.SyncPipelineRequest, seconds_to_deadline: float | None, send: Send
    ) -> None:
        plan = await self._plan(request, seconds_to_deadline)
        eof: Message | None = None
        async with self._holding(request.id) as lease:
            recorder = await self._begin(request, plan, lease)
            messages = self._engine.sync(plan.config, plan.options, plan.fields)
            async with recorder.storing():
                try:
                    async with aclosing(messages), self._soft_end.cutting():
                        async for message in messages:
                            recorder.take(message)
                            if message.HasField("eof"):
                                eof = message
                            else:
                                await send(await self._connectors.masked(message, plan.config))
                except EndedSoftly:
                    eof = eof or recorder.eof_for_now()
                except RpcError as error:
                    if not _is_refusal(error):
                        recorder.fail(error.message)
                    raise
        # What it says is stored by now, and the pipeline is free for the next sync.
        if eof is not None:
            await send(eof)

    async def _plan(self, request: SyncRequest, seconds_to_deadline: float | None) -> _Plan:
        checks.check_sync(request)
        stored = await self._pipelines.load(request.id)
        if stored.pipeline.desired_status == pb.DESIRED_STATUS_PAUSED:
            raise PipelinePaused(request.id)
        if stored.pipeline.desired_status == pb.DESIRED_STATUS_DELETED:
            raise PipelineBeingDeleted(request.id)
        config, fields = self._pipelines.open_config(stored), dict(FIELDS_OF_A_PIPELINE)
        overrides = PipelineConfig(
            source=request.overrides.source,
            destination=request.overrides.destination,
            streams=request.overrides.streams,
        )
        overridden = {field.name for field, _ in request.overrides.ListFields()}
        sides = [side for side in SIDES if side in overridden]
        read = await self._connectors.read(overrides, sides=sides, stored=config, field="overrides")
        leads_elsewhere = False
        own_source: Connector | None = None
        for side in sides:
            own, other = getattr(config, side), getattr(read.plain, side)
            leads_elsewhere |= await self._connectors.lead_apart(side, own, other)
            if side == "source" and await self._connectors.has_other_credentials(side, own, other):
                own_source = Connector()
                own_source.CopyFrom(own)
            own.CopyFrom(other)
            fields[f"pipeline.{side}"] = f"overrides.{side}"
        if overrides.streams:
            del config.streams[:]
            config.streams.extend(overrides.streams)
            fields["pipeline.streams"] = "overrides.streams"
        options = SyncOptions(
            run_id=request.run_id,
            state_limit=request.state_limit,
            reconcile=request.reconcile,
        )
        time_limit = _time_limit(request, seconds_to_deadline)
        if time_limit is not None:
            options.time_limit.CopyFrom(time_limit)
        fields |= {
            "options.state": "overrides.state",
            "options.run_id": "run_id",
            "options.state_limit": "state_limit",
            "options.time_limit": "time_limit",
            "options.reconcile": "reconcile",
        }
        return _Plan(
            config=config,
            options=options,
            fields=fields,
            leads_elsewhere=leads_elsewhere,
            own_source=own_source,
        )

    @asynccontextmanager
    async def _holding(self, pipeline_id: str) -> AsyncIterator[Lease]:
        async with self._leases.hold(pipeline_id, kind=LeaseKind.SYNC) as lease:
            with self._metrics.syncs_running.track_inprogress():
                yield lease

    async def _begin(self, request: SyncRequest, plan: _Plan, lease: Lease) -> Recorder:
        """Adds the state to the plan; what is forgotten is so before the engine is called."""
        overrides = request.overrides
        has_other_source = overrides.HasField("source")
        async with self._database.connection() as connection:
            stored = await states.load(connection, request.id)
        stored_account_id = stored.account_id
        if not stored_account_id and plan.own_source is not None and not plan.leads_elsewhere:
            stored_account_id = await self._connectors.account_of(plan.own_source)
        subject = Subject(
            leads_elsewhere=plan.leads_elsewhere,
            has_other_source=has_other_source,
            has_other_credentials=plan.own_source is not None,
            stored_account_id=stored_account_id,
        )
        state = _given_state(request, plan, stored)
        if request.reset_state and not (plan.leads_elsewhere or has_other_source):
            # Events that are being applied go by the state that is forgotten.
            async with (
                self._leases.hold(request.id, kind=LeaseKind.EVENTS),
                self._database.transaction() as connection,
            ):
                await lease.require(connection)
                await states.delete(connection, request.id)
                stored = await states.load(connection, request.id)
        if not plan.leads_elsewhere:
            # The sync makes the tables that are missing.
            async with self._database.connection() as connection:
                await pipelines.set_torn_down(connection, request.id, is_torn_down=False)
        inputs = CallInputs(request.id, stored.inputs, state)
        if state is not None:
            plan.options.state.CopyFrom(state)
        if inputs.replayable is not None and not plan.leads_elsewhere:
            plan.options.replayable_inputs.CopyFrom(inputs.replayable)
        run_id = request.run_id or uuid.uuid4().hex
        return Recorder(
            self._database,
            lease,
            state or SyncState(),
            run_id,
            self._metrics,
            self._heartbeats,
            inputs=inputs,
            subject=subject,
        )


def _given_state(request: SyncRequest, plan: _Plan, stored: StoredState) -> SyncState | None:
    """Return the state that the engine is given; None to start from nothing."""
    state = None if request.reset_state else stored.state
    if request.overrides.HasField("state"):
        state = SyncState()
        state.CopyFrom(request.overrides.state)
        own = stored.state
        if own is not None and own.destination == state.destination:
            # The inputs are the service's own, wherever the streams start from.
            state.ClearField("inputs_position")
            if own.HasField("inputs_position"):
                state.inputs_position.CopyFrom(own.inputs_position)
    if state is not None and plan.leads_elsewhere:
        # Which never had any of the inputs.
        state = states.without_inputs(state)
    return state


def _is_refusal(error: RpcError) -> bool:
    """Whether the engine was asked for what cannot be: then there was no run, and none failed."""
    stored = FIELDS_OF_A_PIPELINE.values()
    return error.reason == Reason.RECONCILE_NOT_SUPPORTED or any(
        not violation.field.startswith(tuple(stored)) for violation in error.field_violations
    )


def _time_limit(request: SyncRequest, seconds_to_deadline: float | None) -> Duration | None:
    """The caller's time limit, cut so that the answer is there before the caller's deadline."""
    limit = request.time_limit if request.HasField("time_limit") else None
    if seconds_to_deadline is None:
        return limit
    least = min(_LEAST_DEADLINE_MARGIN_SECONDS, seconds_to_deadline / 2)
    margin = min(_DEADLINE_MARGIN_SECONDS, seconds_to_deadline * _DEADLINE_MARGIN_FRACTION)
    margin = max(least, margin)
    before_deadline = Duration()
    before_deadline.FromNanoseconds(max(1, int((seconds_to_deadline - margin) * 1e9)))
    if limit is None or limit.ToNanoseconds() > before_deadline.ToNanoseconds():
        return before_deadline
    return limit
