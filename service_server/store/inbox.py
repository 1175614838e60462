"""Inbox of each pipeline: its webhook events, which are applied or dead-lettered."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import Enum, auto

import asyncpg

from pipesync.v1.pipeline_service_pb2 import (
    DESIRED_STATUS_ACTIVE,
    SYNC_POLICY_CONTINUOUS,
    SYNC_POLICY_MANUAL,
    WEBHOOK_EVENT_STATUS_APPLIED,
    WEBHOOK_EVENT_STATUS_DEAD_LETTERED,
    WEBHOOK_EVENT_STATUS_PENDING,
    WEBHOOK_EVENT_STATUS_UNSPECIFIED,
    WebhookEvent,
    WebhookEventStatus,
)
from pipesync.v1.state_pb2 import CheckpointPosition, DeadLetter
from service_server.store.database import Connection
from service_server.store.leases import Holder
from service_server.store.queries import load_queries

_SQL = load_queries("inbox.sql")
# Each statement has the status as a literal, so that it can use a partial index.
_LISTS = {
    WEBHOOK_EVENT_STATUS_UNSPECIFIED: _SQL["list"],
    WEBHOOK_EVENT_STATUS_PENDING: _SQL["list_pending"],
    WEBHOOK_EVENT_STATUS_APPLIED: _SQL["list_applied"],
    WEBHOOK_EVENT_STATUS_DEAD_LETTERED: _SQL["list_dead_lettered"],
}
# Channel of notifications of pending events; the payload is the pipeline's id.
CHANNEL = "pipesync_webhook_events"
_NEWEST = 2**63 - 1
# Seconds: the number of events is unlimited.
_REPLAY_TIMEOUT = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEvent:
    """A verified event to be stored.

    Attributes:
        pipeline_id: Id of the pipeline.
        etag: Etag of the pipeline whose secret verified the event.
        event_id: ``evt_...``
        event_type: For example ``customer.updated``.
        create_time: Creation time, as stated by the event.
        body: The body of the delivery, unchanged.
    """

    pipeline_id: str
    etag: str
    event_id: str
    event_type: str
    create_time: datetime
    body: bytes = field(repr=False)


class InsertResult(Enum):
    """Result of storing an event."""

    NEW = auto()
    DUPLICATE = auto()
    """The inbox already has the event."""
    OUTDATED = auto()
    """Not stored: the pipeline was changed or deleted since the event was verified."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingEvent:
    """An event to be applied.

    Attributes:
        arrival: Sequence number of its arrival.
        event_id: ``evt_...``
        event_type: For example ``customer.updated``.
        failed_attempts: Number of failed attempts to apply it alone.
        body: The body of the delivery, unchanged.
    """

    arrival: int
    event_id: str
    event_type: str
    failed_attempts: int
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """Counts over the inboxes of all pipelines.

    Attributes:
        pending: Number of events to be applied.
        dead_lettered: Number of events that failed too often.
        lag: Age of the oldest pending event; zero if none is pending.
    """

    pending: int
    dead_lettered: int
    lag: timedelta


async def insert(connection: Connection, events: Sequence[NewEvent]) -> list[InsertResult]:
    """Store events in one statement, and return the result of each, in the same order.

    No two of them may have the same pipeline and id.
    """
    rows = await connection.fetch(
        _SQL["insert"],
        [event.pipeline_id for event in events],
        [event.etag for event in events],
        [event.event_id for event in events],
        [event.event_type for event in events],
        [event.create_time for event in events],
        [event.body for event in events],
        SYNC_POLICY_CONTINUOUS,
    )
    woken = {
        event.pipeline_id
        for event, row in zip(events, rows, strict=True)
        if row["is_new"] and row["is_continuous"]
    }
    if woken:
        await connection.execute(_SQL["wake"], list(woken))
    return [_stored(row) for row in rows]


async def store_dead_letters(
    connection: Connection, pipeline_id: str, letters: Sequence[DeadLetter]
) -> int:
    """Store events that a source dead-lettered, and return the number of new ones.

    No two of them may have the same id. A pending or applied event stays unchanged.
    """
    count: int = await connection.fetchval(
        _SQL["store_dead_letters"],
        pipeline_id,
        [letter.event_id for letter in letters],
        [_storable(letter.event_type) for letter in letters],
        [letter.create_time.ToDatetime(UTC) for letter in letters],
        [letter.attempt_count for letter in letters],
        [_storable(letter.reason) for letter in letters],
        [letter.event_json for letter in letters],
    )
    return count


async def last_pending(connection: Connection, pipeline_id: str) -> int | None:
    """Return the arrival number of the latest pending event; None if none is pending."""
    arrival: int | None = await connection.fetchval(_SQL["last_pending"], pipeline_id)
    return arrival


async def oldest_pending(
    connection: Connection, pipeline_id: str, *, last: int, count: int, size: int, failed: bool
) -> list[PendingEvent]:
    """Return the oldest pending events in the order of their arrival.

    Args:
        connection: The connection to read from.
        pipeline_id: Id of the pipeline.
        last: Arrival number of the last event to return.
        count: Maximum number of events.
        size: Maximum size in bytes, unless the first event alone is larger.
        failed: Whether to return events that failed before, instead of the others.
    """
    rows = await connection.fetch(_SQL["oldest_pending"], pipeline_id, last, count, size, failed)
    return [
        PendingEvent(
            arrival=row["arrival"],
            event_id=row["event_id"],
            event_type=row["event_type"],
            failed_attempts=row["failed_attempts"],
            body=row["event"],
        )
        for row in rows
    ]


async def mark_applied(
    connection: Connection,
    pipeline_id: str,
    ids: Collection[str],
    *,
    series: int | None = None,
    position: CheckpointPosition | None = None,
) -> None:
    """Mark events as applied.

    Args:
        connection: The connection to write to.
        pipeline_id: Id of the pipeline.
        ids: Ids of the events.
        series: The series of ``position``.
        position: The position that the destination recorded with them; None if it records none.
    """
    recorded = (series, position.epoch, position.number) if position is not None else 3 * (None,)
    await connection.execute(_SQL["mark_applied"], pipeline_id, list(ids), *recorded)


async def repeat_after(
    connection: Connection, pipeline_id: str, ids: Collection[str], sync: Holder
) -> None:
    """Apply events once more after the sync that was under way when they were applied.

    Events that arrived before the sync began are left out, since the sync reads newer records.

    Args:
        connection: The connection of the transaction that marks the events as applied.
        pipeline_id: Id of the pipeline.
        ids: Ids of the events that were compared with the destination's records.
        sync: The holder of the sync's lease before the comparison.
    """
    await connection.execute(_SQL["repeat_after"], pipeline_id, list(ids), sync.token, sync.since)


async def requeue_repeats(connection: Connection) -> None:
    """Make events of ``repeat_after`` pending whose syncs have ended."""
    # Usually there are none, and then no lock is waited for.
    if not await connection.fetchval(_SQL["has_repeats"]):
        return
    await connection.execute(_SQL["requeue_repeats"])


async def mark_failed(
    connection: Connection, pipeline_id: str, event_id: str, error: str, *, most_attempts: int
) -> bool:
    """Count a failed attempt to apply an event alone.

    Returns:
        True if it was the last attempt, so that the event is dead-lettered.
    """
    return bool(
        await connection.fetchval(_SQL["mark_failed"], pipeline_id, event_id, error, most_attempts)
    )


async def waiting_pipelines(connection: Connection) -> list[str]:
    """Return the pipelines whose pending events the inbox worker may apply.

    A continuous pipeline is among them only while one of its steps is under way after its setup:
    otherwise its next step applies them.
    """
    rows = await connection.fetch(
        _SQL["waiting_pipelines"], DESIRED_STATUS_ACTIVE, SYNC_POLICY_MANUAL
    )
    return [row["id"] for row in rows]


async def backlog(connection: Connection) -> Backlog:
    """Return the counts over all inboxes."""
    [row] = await connection.fetch(_SQL["backlog"])
    return Backlog(
        pending=row["pending"], dead_lettered=row["dead_lettered"], lag=row["lag"] or timedelta(0)
    )


async def list_latest_first(
    connection: Connection,
    pipeline_id: str,
    limit: int,
    *,
    status: WebhookEventStatus.ValueType,
    before: int | None,
) -> list[tuple[int, WebhookEvent]]:
    """Return events with their arrival numbers, the latest first.

    Args:
        connection: The connection to read from.
        pipeline_id: Id of the pipeline.
        limit: Maximum number of events.
        status: Status of the events; unspecified for all.
        before: Arrival number that the events precede; None starts at the latest.
    """
    arrival = _NEWEST if before is None else before
    rows = await connection.fetch(_LISTS[status], pipeline_id, arrival, limit)
    return [(row["arrival"], _shown(row)) for row in rows]


async def missing(connection: Connection, pipeline_id: str, ids: Collection[str]) -> list[str]:
    """Return the ids that the inbox has no event for."""
    rows = await connection.fetch(_SQL["missing"], pipeline_id, list(ids))
    return [row["event_id"] for row in rows]


async def replay(connection: Connection, pipeline_id: str, ids: Collection[str]) -> int:
    """Make events pending again, and return their number."""
    count: int = await connection.fetchval(_SQL["replay"], pipeline_id, list(ids))
    return count


async def replay_dead_lettered(connection: Connection, pipeline_id: str) -> int:
    """Make all dead-lettered events pending again, and return their number."""
    count: int = await connection.fetchval(
        _SQL["replay_dead_lettered"], pipeline_id, timeout=_REPLAY_TIMEOUT
    )
    return count


async def replay_behind(
    connection: Connection,
    pipeline_id: str,
    *,
    series: int,
    number: int,
    held: CheckpointPosition,
) -> int:
    """Make events pending again that the destination has lost, and return their number.

    Args:
        connection: The connection to write to.
        pipeline_id: Id of the pipeline.
        series: The series of the positions.
        number: Events with a later position number are lost.
        held: Except those of this epoch up to this number, which the destination holds.
    """
    arguments = (series, number, held.epoch, held.number)
    count: int = await connection.fetchval(_SQL["replay_behind"], pipeline_id, *arguments)
    return count


async def prune(connection: Connection, age: timedelta, limit: int) -> int:
    """Delete events that were applied longer than ``age`` ago, and return their number.

    The same statement advances the position behind which all events can still be replayed.

    Args:
        connection: The connection to write to.
        age: Minimum time since the events were applied.
        limit: Maximum number of events.
    """
    count: int = await connection.fetchval(_SQL["prune"], age, limit)
    return count


def _storable(text: str) -> str:
    """Return the text without the character 0, which Postgres cannot store."""
    return text.replace("\0", "")


def _stored(row: asyncpg.Record) -> InsertResult:
    if not row["is_current"]:
        return InsertResult.OUTDATED
    return InsertResult.NEW if row["is_new"] else InsertResult.DUPLICATE


def _shown(row: asyncpg.Record) -> WebhookEvent:
    return WebhookEvent(
        id=row["event_id"],
        type=row["event_type"],
        status=row["status"],
        create_time=row["create_time"],
        receive_time=row["receive_time"],
        finish_time=row["finish_time"],
        failed_attempt_count=row["failed_attempts"],
        last_error=row["last_error"],
    )
