"""Applier that sends the webhook events in the inbox through the engine, in order."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

import structlog
from google.rpc import code_pb2

from pipesync.v1.engine_service_pb2 import SyncOptions
from pipesync.v1.message_pb2 import SourceInput
from pipesync.v1.progress_pb2 import RUN_STATUS_SUCCEEDED, ConnectionStatus
from pipesync.v1.state_pb2 import Eof
from pipesync_rpc.errors import RpcError
from service_server.errors import (
    ConnectionFailed,
    EngineUnavailable,
    EventRefused,
    SyncInProgress,
)
from service_server.leases.lease import Lease
from service_server.metrics import Metrics
from service_server.store import inbox, leases
from service_server.store.database import Connection, Database
from service_server.store.inbox import PendingEvent
from service_server.store.leases import Holder, LeaseKind
from service_server.sync.records.events_record import EventsRecord
from service_server.sync.records.recorder import Recorder
from service_server.sync.records.run import failure_of
from service_server.sync.session import SyncSession
from service_server.sync.sessions import SyncSessions

_log = structlog.get_logger(__name__)

# Limits of one batch; a single event may have more bytes.
_BATCH_EVENTS = 500
_BATCH_BYTES = 4 * 1024 * 1024
# Least time that a batch may take: the lease is renewed for it before.
_BATCH_TIME = timedelta(seconds=10)
# Seconds in which one turn begins further batches; then it releases the lease.
_TURN = 2.0
_MOST_ERROR_CHARACTERS = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sent:
    """Events that were sent to the engine, before their outcome is stored.

    Attributes:
        record: The record of the call.
        recorder: Stores the record.
        failure: Why the events may not be in the destination; empty if the outcome is known.
        refused: The events that failed individually, with the reasons. All others are in the
            destination, unless there is a failure.
        compared: The events that were compared with rows in the destination.
        sync: The sync that was under way when the events were sent; None if there was none.
    """

    record: EventsRecord
    recorder: Recorder
    failure: str = ""
    refused: Mapping[str, str] = field(default_factory=dict)
    compared: frozenset[str] = frozenset()
    sync: Holder | None = None


class InboxApplier:
    """Applies the pending events of one pipeline at a time.

    An event is marked as applied only once it is in the destination, and applying it twice changes
    nothing, so the process may end at any point.
    """

    def __init__(
        self,
        *,
        sessions: SyncSessions,
        database: Database,
        metrics: Metrics,
        most_attempts: int,
        waits_for_others: bool = False,
    ) -> None:
        """Initialize.

        Args:
            sessions: Opens the session of each turn, one at a time per pipeline.
            database: The database with the inbox.
            metrics: Metrics that count applied and dead-lettered events.
            most_attempts: Failed attempts after which an event is dead-lettered.
            waits_for_others: Whether to wait while another applier holds the lease of a pipeline.
        """
        self._waits_for_others = waits_for_others
        self._sessions = sessions
        self._database = database
        self._metrics = metrics
        self._most_attempts = most_attempts

    async def apply(self, pipeline_id: str) -> int:
        """Apply pending events in one short turn; another call applies the rest.

        Events that arrive meanwhile are left to the next call, because one batch of many events
        costs less than many batches of few.

        Returns:
            The number of applied events.

        Raises:
            SyncInProgress: Other work on the pipeline is under way that excludes the application
                of events. A sync does not exclude it.
            PipelineNotFound: There is no such pipeline.
            PipelinePaused: The pipeline is paused.
            PipelineBeingDeleted: The pipeline is being deleted.
            PipelineTornDown: The pipeline's tables were removed.
            ConnectionFailed: The engine cannot reach the source or the destination.
            EngineUnavailable: The engine is unavailable, or stopped during a call.
            EventRefused: An event cannot be applied. The next call retries it, and the last
                failed attempt dead-letters it.
            LeaseLost: Another process took the lease over.
            StoreUnavailable: The database is unavailable.
            SecretsUnreadable: The encryption key is missing.
            RpcError: The engine does not accept the configuration any more.
        """
        clock = asyncio.get_running_loop().time
        applied = 0
        async with self._database.connection() as connection:
            last = await inbox.last_pending(connection, pipeline_id)
        if last is None:
            return applied
        async with self._sessions.open(
            pipeline_id, LeaseKind.EVENTS, waits_for_applier=self._waits_for_others
        ) as session:
            end_of_turn = clock() + _TURN
            refusal: EventRefused | None = None
            for failed in (False, True):
                # Events that failed before are retried after all others, and once a turn.
                while clock() < end_of_turn and refusal is None:
                    events = await self._next_batch(pipeline_id, last, failed=failed)
                    if not events:
                        break
                    try:
                        applied += await self._apply(session, events)
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
                # An event that failed individually is retried alone, so that it does not split the
                # batches of the others each time.
                count=1 if failed else _BATCH_EVENTS,
                size=_BATCH_BYTES,
                failed=failed,
            )

    async def _apply(self, session: SyncSession, events: Sequence[PendingEvent]) -> int:
        """Apply events, in halves if the batch fails for an unknown event in it.

        Raises:
            EventRefused: An event failed and is to be retried; the error is of the first such
                event, and the others are applied.
        """
        sent = await self._send(session, events)
        fine = []
        if not sent.failure:
            fine = [event for event in events if event.event_id not in sent.refused]
        if fine or sent.recorder.has_news:
            await self._store(session.lease, sent, fine)
        if not sent.failure:
            refusals = []
            for event in events:
                if event.event_id in sent.refused:
                    reason = sent.refused[event.event_id]
                    refusals += await self._note_failure(session.lease, event, reason)
            if refusals:
                raise refusals[0]
            return len(fine)
        if len(events) == 1:
            for refusal in await self._note_failure(session.lease, events[0], sent.failure):
                raise refusal
            return 0
        middle = len(events) // 2
        first = await self._apply(session, events[:middle])
        return first + await self._apply(session, events[middle:])

    async def _send(self, session: SyncSession, events: Sequence[PendingEvent]) -> _Sent:
        """Send events to the engine."""
        basis = await session.load()
        async with self._database.connection() as connection:
            # A sync that begins later reads rows that are newer than these events.
            sync = await leases.get_holder(connection, basis.pipeline_id, LeaseKind.SYNC)
        record = EventsRecord(basis, is_from_inbox=True)
        call = await session.call(
            basis,
            record,
            SyncOptions(),
            inputs=[SourceInput(event_json=event.body) for event in events],
            least_time=_BATCH_TIME,
        )
        sent = _Sent(
            record=record,
            recorder=call.recorder,
            sync=sync if sync is not None and sync.time_left else None,
        )
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            eof = await call.finish()
        except RpcError as error:
            if error.code in (code_pb2.INTERNAL, code_pb2.UNKNOWN):
                return replace(sent, failure=error.message)
            raise
        is_slow = clock() - began > (call.request.timeout or 0.0) / 2
        if eof.has_more and len(events) > 1 and is_slow:
            return replace(sent, failure="the engine did not finish the events in time")
        _require_applied(eof)
        if eof.status == RUN_STATUS_SUCCEEDED:
            return replace(sent, compared=frozenset(eof.compared_event_ids))
        if eof.dead_letters:
            # An engine that lists the failed events has applied all others.
            refused = {each.event_id: each.reason for each in eof.dead_letters}
            return replace(sent, refused=refused, compared=frozenset(eof.compared_event_ids))
        return replace(sent, failure=failure_of(eof) or "the engine did not finish the events")

    async def _store(self, lease: Lease, sent: _Sent, applied: Sequence[PendingEvent]) -> None:
        """Store the outcome of a call: the applied events and their position.

        Raises:
            SyncInProgress: A concurrent sync moved the position; the events are applied again.
        """
        pipeline_id = lease.pipeline_id
        ids = [event.event_id for event in applied]

        async def mark_applied(connection: Connection) -> None:
            inputs = sent.record.stored_inputs
            if inputs is None:
                raise SyncInProgress(
                    f"another sync of pipeline {pipeline_id!r} moved the position of its events:"
                    " they are applied again"
                )
            if not ids:
                return
            await inbox.mark_applied(
                connection, pipeline_id, ids, series=inputs.series, position=inputs.position
            )
            if sent.sync is not None and sent.compared:
                # The sync may still write rows that the events were not compared with.
                await inbox.repeat_after(
                    connection, pipeline_id, sent.compared.intersection(ids), sent.sync
                )

        # No retry: the events are pending still.
        await sent.recorder.store(mark_applied)
        if applied:
            self._metrics.events_applied.inc(len(applied))
            _log.info("webhook_events_applied", pipeline_id=pipeline_id, count=len(applied))

    async def _note_failure(
        self, lease: Lease, event: PendingEvent, failure: str
    ) -> list[EventRefused]:
        """Count an individual failure of an event; return it unless the event is dead-lettered."""
        # Text in Postgres cannot hold the character 0.
        error = failure.replace("\0", "")[:_MOST_ERROR_CHARACTERS]
        async with lease.transaction() as connection:
            is_dead_lettered = await inbox.mark_failed(
                connection,
                lease.pipeline_id,
                event.event_id,
                error,
                most_attempts=self._most_attempts,
            )
        if not is_dead_lettered:
            return [EventRefused(event.event_id, error, failed_attempts=event.failed_attempts + 1)]
        self._metrics.events_dead_lettered.inc()
        _log.error(
            "webhook_event_set_aside",
            pipeline_id=lease.pipeline_id,
            event_id=event.event_id,
            event_type=event.event_type,
            attempts=self._most_attempts,
            error=error,
        )
        return []


def _require_applied(eof: Eof) -> None:
    """Require that the engine tried the events of a batch.

    Raises:
        ConnectionFailed: None is applied, because a connection failed.
        EngineUnavailable: None is applied, because the engine is stopping, or too slow for a single
            event.
    """
    status = eof.request_progress.connection_status
    if status.status == ConnectionStatus.STATUS_FAILED:
        raise ConnectionFailed(status.message)
    if eof.has_more:
        raise EngineUnavailable(
            eof.limit_message or "the engine is stopping, or too slow, and cut the call short"
        )
