"""When each pipeline that runs by itself is due, and what it has to remember."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from service_server.store.database import Connection
from service_server.store.queries import load_queries

_SQL = load_queries("lifecycles.sql")

# Notified, without a payload, when a pipeline has become due.
DUE_CHANNEL = "pipesync_due"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A pipeline whose step is due, and left to whoever claimed it for a while.

    Attributes:
        pipeline_id: Which pipeline.
        wakes: Of the row, so that what happens after the claim is told from what happened before.
    """

    pipeline_id: str
    wakes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredLifecycle:
    """What is remembered of a pipeline that runs by itself.

    Attributes:
        memory: JSON; None before the first step.
        time: The database's clock, which all replicas go by.
    """

    memory: str | None
    time: datetime


async def start(connection: Connection, pipeline_id: str) -> None:
    """Has the pipeline run by itself from now on; one that does already has something to see."""
    await connection.execute(_SQL["start"], pipeline_id)
    await connection.execute(_SQL["notify"])


async def stop(connection: Connection, pipeline_id: str) -> None:
    """Has the pipeline run by itself no longer, and forgets what was remembered."""
    await connection.execute(_SQL["stop"], pipeline_id)


async def wake(connection: Connection, pipeline_id: str) -> None:
    """Has the next step taken now, if the pipeline runs by itself."""
    await connection.execute(_SQL["wake"], pipeline_id)


async def claim(connection: Connection, limit: int, duration: timedelta) -> list[Claim]:
    """The pipelines that are due, those that waited longest first; nobody else gets them.

    Args:
        connection: Where to look.
        limit: How many at most.
        duration: After this they are due again, should nobody say how their steps ended.
    """
    rows = await connection.fetch(_SQL["claim"], limit, duration)
    return [Claim(pipeline_id=row["pipeline_id"], wakes=row["wakes"]) for row in rows]


async def get(connection: Connection, pipeline_id: str) -> StoredLifecycle | None:
    """What is remembered; None when the pipeline does not run by itself."""
    row = await connection.fetchrow(_SQL["get"], pipeline_id)
    return StoredLifecycle(memory=row["memory"], time=row["time"]) if row is not None else None


async def put(connection: Connection, claim: Claim, memory: str, delay: timedelta | None) -> None:
    """Stores what is remembered, and when the next step is due: None waits to be woken."""
    await connection.execute(_SQL["put"], claim.pipeline_id, memory, claim.wakes, delay)


async def postpone(connection: Connection, pipeline_id: str, delay: timedelta) -> None:
    """Has a claimed pipeline due after ``delay``, unless it has been woken since."""
    await connection.execute(_SQL["postpone"], pipeline_id, delay)


async def time_to_next(connection: Connection) -> timedelta | None:
    """How long until the next pipeline is due; None when none will be by itself."""
    delay: timedelta | None = await connection.fetchval(_SQL["time_to_next"])
    return delay
