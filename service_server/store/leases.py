"""Who may sync each pipeline now."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from service_server.errors import LeaseLost
from service_server.store.database import Connection
from service_server.store.queries import load_queries

_SQL = load_queries("leases.sql")


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who holds a lease.

    Attributes:
        name: The process, e.g. ``host:pid``.
        since: When it took the lease.
        time_left: How long until the lease expires unless it is renewed.
        is_brief: It keeps the lease for moments only.
    """

    name: str
    since: datetime
    time_left: timedelta
    is_brief: bool = False


async def acquire(
    connection: Connection,
    pipeline_id: str,
    holder: str,
    duration: timedelta,
    *,
    is_brief: bool = False,
) -> int | None:
    """Takes the lease if it is free or has expired.

    Returns:
        The fencing token, greater than any before it; None when somebody else holds the lease, or
        there is no such pipeline.
    """
    token: int | None = await connection.fetchval(
        _SQL["acquire"], pipeline_id, holder, duration, is_brief
    )
    return token


async def get_holder(connection: Connection, pipeline_id: str) -> Holder | None:
    """Who has the lease; None when it is free."""
    row = await connection.fetchrow(_SQL["get"], pipeline_id)
    if row is None:
        return None
    return Holder(
        name=row["holder"],
        since=row["acquire_time"],
        time_left=row["time_left"],
        is_brief=row["is_brief"],
    )


async def renew(connection: Connection, pipeline_id: str, token: int, duration: timedelta) -> bool:
    """Holds the lease for at least ``duration`` from now; False when it was taken over."""
    return bool(await connection.fetchval(_SQL["renew"], pipeline_id, token, duration))


async def require(connection: Connection, pipeline_id: str, token: int) -> None:
    """Makes the rest of the transaction safe from a takeover.

    Raises:
        LeaseLost: ``token`` no longer holds the lease.
    """
    if not await connection.fetchval(_SQL["lock"], pipeline_id, token):
        raise LeaseLost(pipeline_id)


async def release(connection: Connection, pipeline_id: str, token: int) -> None:
    """Frees the lease, if ``token`` still holds it."""
    await connection.execute(_SQL["release"], pipeline_id, token)
