"""Due times and lifecycle states of continuous pipelines."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from service_server.background.fair_shares import IdFilter
from service_server.store.database import Connection
from service_server.store.queries import load_queries

# All pipelines.
ALL = IdFilter()

_SQL = load_queries("lifecycles.sql")

# Channel of notifications, without a payload, that a pipeline has become due.
DUE_CHANNEL = "pipesync_due"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A pipeline whose step is due, and reserved for one process for a while.

    Attributes:
        pipeline_id: Id of the pipeline.
        wakes: Number of wakes at the time of the claim, so that later ones are noticed.
    """

    pipeline_id: str
    wakes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredLifecycle:
    """Lifecycle of a continuous pipeline.

    Attributes:
        state_json: The state that the latest step left; None before the first step.
        time: Current time by the database's clock, which all replicas share.
    """

    state_json: str | None
    time: datetime


async def start(connection: Connection, pipeline_id: str) -> None:
    """Make a pipeline continuous, or wake one that already is."""
    await connection.execute(_SQL["start"], pipeline_id)
    await connection.execute(_SQL["notify"])


async def stop(connection: Connection, pipeline_id: str) -> None:
    """Make a pipeline no longer continuous, and delete its lifecycle's state."""
    await connection.execute(_SQL["stop"], pipeline_id)


async def wake(connection: Connection, pipeline_id: str) -> None:
    """Make the next step due now if the pipeline is continuous."""
    await connection.execute(_SQL["wake"], pipeline_id)


async def claim(
    connection: Connection, limit: int, duration: timedelta, among: IdFilter = ALL
) -> list[Claim]:
    """Claim due pipelines, the longest overdue first.

    Args:
        connection: The connection to write to.
        limit: Maximum number of pipelines.
        duration: Time after which the claims lapse, so that the pipelines are due again.
        among: The pipelines to choose from.
    """
    rows = await connection.fetch(
        _SQL["claim"], limit, duration, list(among.excluded), _list_or_none(among.required)
    )
    return [Claim(pipeline_id=row["pipeline_id"], wakes=row["wakes"]) for row in rows]


async def get(connection: Connection, pipeline_id: str) -> StoredLifecycle | None:
    """Return a pipeline's lifecycle; None if the pipeline is not continuous."""
    row = await connection.fetchrow(_SQL["get"], pipeline_id)
    return StoredLifecycle(state_json=row["memory"], time=row["time"]) if row is not None else None


async def put(
    connection: Connection, claim: Claim, state_json: str, delay: timedelta | None
) -> None:
    """Store the state after a step, and when the next step is due: None waits for a wake."""
    await connection.execute(_SQL["put"], claim.pipeline_id, state_json, claim.wakes, delay)


async def postpone(connection: Connection, pipeline_id: str, delay: timedelta) -> None:
    """Make a claimed pipeline due after ``delay``, unless it was woken since the claim."""
    await connection.execute(_SQL["postpone"], pipeline_id, delay)


async def time_to_next(connection: Connection, among: IdFilter = ALL) -> timedelta | None:
    """Return the time until the next of some pipelines is due; None if all wait for a wake."""
    delay: timedelta | None = await connection.fetchval(
        _SQL["time_to_next"], list(among.excluded), _list_or_none(among.required)
    )
    return delay


def _list_or_none(prefixes: Collection[str] | None) -> list[str] | None:
    return None if prefixes is None else list(prefixes)
