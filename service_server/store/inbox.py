"""The webhook events of each pipeline: taken in, then applied or set aside."""

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
    WEBHOOK_EVENT_STATUS_PENDING,
    WEBHOOK_EVENT_STATUS_SET_ASIDE,
    WEBHOOK_EVENT_STATUS_UNSPECIFIED,
    WebhookEvent,
    WebhookEventStatus,
)
from pipesync.v1.state_pb2 import CheckpointPosition, DeadLetter
from service_server.store.database import Connection
from service_server.store.leases import Holder
from service_server.store.queries import load_queries

_SQL = load_queries("inbox.sql")
# A status is a literal in these, so that each finds its index.
_LISTS = {
    WEBHOOK_EVENT_STATUS_UNSPECIFIED: _SQL["list"],
    WEBHOOK_EVENT_STATUS_PENDING: _SQL["list_pending"],
    WEBHOOK_EVENT_STATUS_APPLIED: _SQL["list_applied"],
    WEBHOOK_EVENT_STATUS_SET_ASIDE: _SQL["list_set_aside"],
}
# Notified, with the pipeline's id, of events that are to be applied.
CHANNEL = "pipesync_webhook_events"
_NEWEST = 2**63 - 1
# Seconds: there may be any number of events.
_REPLAY_TIMEOUT = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEvent:
    """An event to be taken in.

    Attributes:
        pipeline_id: Whose it is.
        etag: Of the pipeline whose secret it was verified with.
        event_id: ``evt_...``
        event_type: e.g. ``customer.updated``.
        create_time: When it was made, as it says itself.
        body: As it came in.
    """

    pipeline_id: str
    etag: str
    event_id: str
    event_type: str
    create_time: datetime
    body: bytes = field(repr=False)


class Stored(Enum):
    """What became of an event that was to be taken in."""

    NEW = auto()
    DUPLICATE = auto()
    """The pipeline has had it before."""
    OUTDATED = auto()
    """The pipeline changed, or went, since the event was verified: it is not stored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingEvent:
    """An event to be applied.

    Attributes:
        arrival: Its number among all that came in.
        event_id: ``evt_...``
        event_type: e.g. ``customer.updated``.
        failed_attempts: How often it failed by itself.
        body: As it came in.
    """

    arrival: int
    event_id: str
    event_type: str
    failed_attempts: int
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """What is left to do, over all pipelines.

    Attributes:
        pending: Events to be applied.
        set_aside: Events that failed too often.
        lag: How long the oldest of the former has been waiting; nothing when there is none.
    """

    pending: int
    set_aside: int
    lag: timedelta


async def insert(connection: Connection, events: Sequence[NewEvent]) -> list[Stored]:
    """Takes events in, in one transaction: what became of each, in the same order.

    No two of them are of the same pipeline and id.
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
        if row["is_new"] and row["runs_by_itself"]
    }
    if woken:
        await connection.execute(_SQL["wake"], list(woken))
    return [_stored(row) for row in rows]


async def store_dead_letters(
    connection: Connection, pipeline_id: str, letters: Sequence[DeadLetter]
) -> int:
    """Stores events that a source gave up as set aside; how many were not there before.

    No two of them are of the same event. One that is pending or applied stays as it is.
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
    """The number of the pipeline's pending event that came last; None when none is pending."""
    arrival: int | None = await connection.fetchval(_SQL["last_pending"], pipeline_id)
    return arrival


async def oldest_pending(
    connection: Connection, pipeline_id: str, *, last: int, count: int, size: int, failed: bool
) -> list[PendingEvent]:
    """The pipeline's pending events that came first, in the order in which they came.

    Args:
        connection: Where to read.
        pipeline_id: Whose events.
        last: None that came after the one of this number.
        count: At most so many.
        size: At most so many bytes, unless the first one alone has more.
        failed: Those that failed before, instead of those that did not.
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
    """Store that these events are in the destination.

    Args:
        connection: Where to store.
        pipeline_id: Of the pipeline.
        ids: Of the events.
        series: That the position belongs to.
        position: Under which the destination has recorded them; None when it records none.
    """
    recorded = (series, position.epoch, position.number) if position is not None else 3 * (None,)
    await connection.execute(_SQL["mark_applied"], pipeline_id, list(ids), *recorded)


async def repeat_after(
    connection: Connection, pipeline_id: str, ids: Collection[str], sync: Holder
) -> None:
    """Has applied events applied once more when a sync has ended that was under way meanwhile.

    One that came in before the sync began is not: all that the sync reads is newer.

    Args:
        connection: In the transaction that marks the events as applied.
        pipeline_id: Whose events.
        ids: Those of them that were compared with what the destination held.
        sync: Who held the lease of the sync before they were.
    """
    await connection.execute(_SQL["repeat_after"], pipeline_id, list(ids), sync.token, sync.since)


async def requeue_repeats(connection: Connection) -> None:
    """Has events applied once more whose syncs have ended."""
    # Mostly there are none, and then no lock on the inbox is waited for.
    if not await connection.fetchval(_SQL["has_repeats"]):
        return
    await connection.execute(_SQL["requeue_repeats"])


async def mark_failed(
    connection: Connection, pipeline_id: str, event_id: str, error: str, *, most_attempts: int
) -> bool:
    """Notes that an event failed by itself; True when that was once too often: it is set aside."""
    return bool(
        await connection.fetchval(_SQL["mark_failed"], pipeline_id, event_id, error, most_attempts)
    )


async def waiting_pipelines(connection: Connection) -> list[str]:
    """The pipelines with pending events that no turn of their own applies, and that may be.

    A continuous pipeline is among them while one of its steps is under way, and once it is set up.
    """
    rows = await connection.fetch(
        _SQL["waiting_pipelines"], DESIRED_STATUS_ACTIVE, SYNC_POLICY_MANUAL
    )
    return [row["id"] for row in rows]


async def backlog(connection: Connection) -> Backlog:
    """What is left to do."""
    [row] = await connection.fetch(_SQL["backlog"])
    return Backlog(
        pending=row["pending"], set_aside=row["set_aside"], lag=row["lag"] or timedelta(0)
    )


async def list_latest_first(
    connection: Connection,
    pipeline_id: str,
    limit: int,
    *,
    status: WebhookEventStatus.ValueType,
    before: int | None,
) -> list[tuple[int, WebhookEvent]]:
    """At most ``limit`` events with their place in the order of arrival, the latest first.

    Args:
        connection: Where to read.
        pipeline_id: Whose events.
        limit: How many at most.
        status: Of these alone; unspecified for all.
        before: The place that the answer comes before; None starts at the latest.
    """
    place = _NEWEST if before is None else before
    rows = await connection.fetch(_LISTS[status], pipeline_id, place, limit)
    return [(row["arrival"], _shown(row)) for row in rows]


async def missing(connection: Connection, pipeline_id: str, ids: Collection[str]) -> list[str]:
    """Those of the ids that the pipeline has no event of."""
    rows = await connection.fetch(_SQL["missing"], pipeline_id, list(ids))
    return [row["event_id"] for row in rows]


async def replay(connection: Connection, pipeline_id: str, ids: Collection[str]) -> int:
    """Has these events applied again; how many there were."""
    count: int = await connection.fetchval(_SQL["replay"], pipeline_id, list(ids))
    return count


async def replay_set_aside(connection: Connection, pipeline_id: str) -> int:
    """Has all events applied again that are set aside; how many there were."""
    count: int = await connection.fetchval(
        _SQL["replay_set_aside"], pipeline_id, timeout=_REPLAY_TIMEOUT
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
    """Have events applied again; return their number.

    Args:
        connection: Where to store.
        pipeline_id: Of the pipeline.
        series: That their positions belong to.
        number: They were applied with a later one.
        held: Those of this epoch up to this number stay applied.
    """
    arguments = (series, number, held.epoch, held.number)
    count: int = await connection.fetchval(_SQL["replay_behind"], pipeline_id, *arguments)
    return count


async def prune(connection: Connection, age: timedelta, limit: int) -> int:
    """Forgets at most ``limit`` events that were applied longer ago than that; how many it did.

    In the same transaction, the position moves up behind which events can be applied again.
    """
    count: int = await connection.fetchval(_SQL["prune"], age, limit)
    return count


def _storable(text: str) -> str:
    """The text without the character 0, which Postgres cannot hold."""
    return text.replace("\0", "")


def _stored(row: asyncpg.Record) -> Stored:
    if not row["is_current"]:
        return Stored.OUTDATED
    return Stored.NEW if row["is_new"] else Stored.DUPLICATE


def _shown(row: asyncpg.Record) -> WebhookEvent:
    return WebhookEvent(
        id=row["event_id"],
        type=row["event_type"],
        status=row["status"],
        create_time=row["create_time"],
        receive_time=row["receive_time"],
        finish_time=row["finish_time"],
        failed_attempts=row["failed_attempts"],
        last_error=row["last_error"],
    )
