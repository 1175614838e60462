"""Brings webhook events that were taken in to their pipeline's destination, in order."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

import structlog
from google.rpc import code_pb2

from pipesync.v1.engine_service_pb2 import SyncOptions
from pipesync.v1.message_pb2 import SourceInput
from pipesync.v1.pipeline_service_pb2 import DESIRED_STATUS_PAUSED
from pipesync.v1.progress_pb2 import RUN_STATUS_SUCCEEDED, ConnectionStatus
from pipesync.v1.state_pb2 import Eof
from pipesync_rpc.errors import RpcError
from service_server.beside import resumed_state, store_beside
from service_server.engine import FIELDS_OF_A_PIPELINE, Engine
from service_server.errors import (
    ConnectionFailed,
    EngineUnavailable,
    EventRefused,
    PipelinePaused,
    PipelineTornDown,
    SyncInProgress,
)
from service_server.held_rejected import store_held
from service_server.inputs import CallInputs
from service_server.leases import Lease, LeaseKeeper
from service_server.metrics import Metrics
from service_server.pipelines import Pipelines
from service_server.recorder import failure_of
from service_server.rewinds import log_rewinds
from service_server.store import inbox, leases, lifecycles, states
from service_server.store.database import Database
from service_server.store.inbox import PendingEvent
from service_server.store.leases import Holder, LeaseKind
from service_server.store.states import StoredState

_log = structlog.get_logger(__name__)

# What goes to the engine at once, at most; one event alone may have more bytes.
_BATCH_EVENTS = 500
_BATCH_BYTES = 4 * 1024 * 1024
# How long one batch may take at least.
_BATCH_TIME = timedelta(seconds=10)
# How long one turn goes on to take further batches, in seconds: then others may have the lease.
_TURN = 2.0
_MOST_ERROR_CHARACTERS = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sent:
    """What became of events that were sent to the engine.

    Attributes:
        failure: Why it is unsure whether they are in the destination; empty when it is not.
        refused: The events that failed by themselves, with the reasons. All others are in the
            destination, unless there is a failure.
        compared: Those that were compared with what the destination held.
        sync: The sync that was under way as they were sent; None when none was.
    """

    failure: str = ""
    refused: Mapping[str, str] = field(default_factory=dict)
    compared: frozenset[str] = frozenset()
    sync: Holder | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """One call to the engine with events, on its way into the store.

    Attributes:
        before: What was stored as it began.
        inputs: The position that it came to.
        sent: What became of the events.
        eof: How it ended; None when it broke off.
    """

    before: StoredState
    inputs: CallInputs
    sent: _Sent
    eof: Eof | None = None

    @property
    def has_news(self) -> bool:
        """Whether there is anything to store besides what became of the events."""
        is_resumed = self.eof is not None and resumed_state(self.before, self.eof) is not None
        return is_resumed or self.inputs.is_changed


class InboxApplier:
    """Applies the pending events of one pipeline at a time.

    An event is marked only once it is in the destination, and applying one twice changes nothing:
    so the process may end at any point.
    """

    def __init__(
        self,
        *,
        pipelines: Pipelines,
        engine: Engine,
        database: Database,
        leases: LeaseKeeper,
        metrics: Metrics,
        most_attempts: int,
        waits_for_others: bool = False,
    ) -> None:
        """Takes what it stands on.

        Args:
            pipelines: Where configurations are.
            engine: What applies events.
            database: Where the events are.
            leases: One pipeline's events are never applied twice at once.
            metrics: Told what became of events.
            most_attempts: How often an event that fails by itself is tried before it is set aside.
            waits_for_others: Whether to wait while another applier is at the same pipeline.
        """
        self._waits_for_others = waits_for_others
        self._pipelines = pipelines
        self._engine = engine
        self._database = database
        self._leases = leases
        self._metrics = metrics
        self._most_attempts = most_attempts

    async def apply(self, pipeline_id: str) -> int:
        """Applies pending events for a moment; another call applies the rest.

        What comes in meanwhile is left to the next call: one batch of many events costs less than
        many batches of few.

        Returns:
            How many were applied. 0 when none was pending.

        Raises:
            SyncInProgress: other work on the pipeline is under way, and no sync that events may be
                applied beside.
            PipelineNotFound: there is no such pipeline.
            PipelinePaused: it is paused.
            PipelineTornDown: its tables were removed.
            ConnectionFailed: the engine cannot reach the source or the destination.
            EngineUnavailable: the engine is away, or ended in the middle.
            EventRefused: an event cannot be applied; it is tried again by the next call, and set
                aside once it failed often enough.
            LeaseLost: another service took over.
            StoreUnavailable: the database is away.
            SecretsUnreadable: the key is missing.
            RpcError: the engine does not take the configuration any more.
        """
        clock = asyncio.get_running_loop().time
        applied = 0
        async with self._database.connection() as connection:
            last = await inbox.last_pending(connection, pipeline_id)
        if last is None:
            return applied
        async with self._leases.hold(
            pipeline_id, kind=LeaseKind.EVENTS, waits_for_applier=self._waits_for_others
        ) as lease:
            end_of_turn = clock() + _TURN
            refusal: EventRefused | None = None
            for failed in (False, True):
                # Those that failed are tried behind all others, and once a turn.
                while clock() < end_of_turn and refusal is None:
                    events = await self._next_batch(pipeline_id, last, failed=failed)
                    if not events:
                        break
                    try:
                        applied += await self._apply(lease, events)
                    except EventRefused as error:
                        refusal = error
            if refusal is not None:
                raise refusal
        return applied

    async def _next_batch(self, pipeline_id: str, last: int, *, failed: bool) -> list[PendingEvent]:
        async with self._database.connection() as connection:
            return await inbox.oldest_pending(
                connection,
                pipeline_id,
                last=last,
                # One that failed by itself goes by itself again, so that the others need not be
                # told apart from it each time.
                count=1 if failed else _BATCH_EVENTS,
                size=_BATCH_BYTES,
                failed=failed,
            )

    async def _apply(self, lease: Lease, events: Sequence[PendingEvent]) -> int:
        """Applies events, in halves when one is in the others' way and it is not known which.

        Raises:
            EventRefused: The first one of them that is to be tried again; the others are applied.
        """
        call = await self._send(lease, events)
        sent = call.sent
        fine = []
        if not sent.failure:
            fine = [event for event in events if event.event_id not in sent.refused]
        if fine or call.has_news:
            await self._store(lease, call, fine)
        if not sent.failure:
            refusals = []
            for event in events:
                if event.event_id in sent.refused:
                    refusals += await self._note_failure(lease, event, sent.refused[event.event_id])
            if refusals:
                raise refusals[0]
            return len(fine)
        if len(events) == 1:
            for refusal in await self._note_failure(lease, events[0], sent.failure):
                raise refusal
            return 0
        middle = len(events) // 2
        first = await self._apply(lease, events[:middle])
        return first + await self._apply(lease, events[middle:])

    async def _send(self, lease: Lease, events: Sequence[PendingEvent]) -> _Call:
        """Has the engine apply events."""
        pipeline_id = lease.pipeline_id
        stored = await self._pipelines.load(pipeline_id)
        if stored.pipeline.desired_status == DESIRED_STATUS_PAUSED:
            raise PipelinePaused(pipeline_id)
        if stored.is_torn_down:
            raise PipelineTornDown(pipeline_id)
        async with self._database.connection() as connection:
            before = await states.load(connection, pipeline_id)
            # Rows of one that begins later are newer than these events.
            sync = await leases.get_holder(connection, pipeline_id, LeaseKind.SYNC)
        inputs = CallInputs(pipeline_id, before.inputs, before.state)
        options = SyncOptions(state=before.state, replayable_inputs=inputs.replayable)
        if options.state.sync_run.empty_request_count:
            # That is of requests for history: an event is at no fault for being slow.
            options.state.sync_run.empty_request_count = 0
        await lease.last(_BATCH_TIME)
        clock = asyncio.get_running_loop().time
        began, timeout = clock(), lease.seconds_to_work()
        try:
            eof = await self._engine.sync_batch(
                self._pipelines.open_config(stored),
                options,
                FIELDS_OF_A_PIPELINE,
                [SourceInput(event_json=event.body) for event in events],
                timeout=timeout,
            )
        except RpcError as error:
            if error.code in (code_pb2.INTERNAL, code_pb2.UNKNOWN):
                return _Call(before=before, inputs=inputs, sent=_Sent(failure=error.message))
            raise
        log_rewinds(pipeline_id, eof)
        if eof.has_more and len(events) > 1 and clock() - began > timeout / 2:
            sent = _Sent(failure="the engine did not finish the events in time")
            return _Call(before=before, inputs=inputs, sent=sent, eof=eof)
        sent = replace(
            _sent(eof),
            compared=frozenset(eof.compared_event_ids),
            sync=sync if sync is not None and sync.time_left else None,
        )
        inputs.finish(eof)
        # An event whose record the destination rejected is applied: it keeps the record.
        is_known = eof.held_rejected_record_count == stored.held_rejected_record_count
        if not sent.failure and not is_known:
            async with self._database.transaction() as connection:
                await lease.require(connection)
                await store_held(connection, pipeline_id, eof)
                await lifecycles.wake(connection, pipeline_id)
        return _Call(before=before, inputs=inputs, sent=sent, eof=eof)

    async def _store(self, lease: Lease, call: _Call, applied: Sequence[PendingEvent]) -> None:
        """Stores what a call came to: the events that are applied, and their position.

        Raises:
            SyncInProgress: A sync beside moved the position; the events are applied again.
        """
        pipeline_id, inputs = lease.pipeline_id, call.inputs
        async with self._database.transaction() as connection:
            await lease.require(connection)
            if call.eof is not None and not await store_beside(
                connection, pipeline_id, call.before, call.eof, inputs
            ):
                raise SyncInProgress(
                    f"another sync of pipeline {pipeline_id!r} moved the position of its events:"
                    " they are applied again"
                )
            if applied:
                ids = [event.event_id for event in applied]
                await inbox.mark_applied(
                    connection,
                    pipeline_id,
                    ids,
                    series=inputs.stored.series,
                    position=inputs.stored.position,
                )
                if (sync := call.sent.sync) is not None and call.sent.compared:
                    # Rows on their way in the sync were not among those that it was compared with.
                    await inbox.repeat_after(
                        connection, pipeline_id, call.sent.compared.intersection(ids), sync
                    )
        if applied:
            self._metrics.events_applied.inc(len(applied))
            _log.info("webhook_events_applied", pipeline_id=pipeline_id, count=len(applied))

    async def _note_failure(
        self, lease: Lease, event: PendingEvent, failure: str
    ) -> list[EventRefused]:
        """Counts a failure of an event's own; returns it unless the event is set aside by that."""
        # Postgres's text cannot hold the character 0.
        error = failure.replace("\0", "")[:_MOST_ERROR_CHARACTERS]
        async with self._database.transaction() as connection:
            await lease.require(connection)
            is_set_aside = await inbox.mark_failed(
                connection,
                lease.pipeline_id,
                event.event_id,
                error,
                most_attempts=self._most_attempts,
            )
        if not is_set_aside:
            return [EventRefused(event.event_id, error, failed_attempts=event.failed_attempts + 1)]
        self._metrics.events_set_aside.inc()
        _log.error(
            "webhook_event_set_aside",
            pipeline_id=lease.pipeline_id,
            event_id=event.event_id,
            event_type=event.event_type,
            attempts=self._most_attempts,
            error=error,
        )
        return []


def _sent(eof: Eof) -> _Sent:
    """What a batch's end says of its events.

    Raises:
        ConnectionFailed: none of them is.
        EngineUnavailable: the same: the engine was told to end, or is too slow for a single one.
    """
    status = eof.request_progress.connection_status
    if status.status == ConnectionStatus.STATUS_FAILED:
        raise ConnectionFailed(status.message)
    if eof.has_more:
        raise EngineUnavailable(
            eof.limit_message or "the engine is stopping, or too slow, and cut the call short"
        )
    if eof.status == RUN_STATUS_SUCCEEDED:
        return _Sent()
    if eof.dead_letters:
        # An engine that lists some vouches for the others.
        return _Sent(refused={each.event_id: each.reason for each in eof.dead_letters})
    return _Sent(failure=failure_of(eof) or "the engine did not finish the events")
