"""Who may sync each pipeline now, and who may apply its events."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, auto

from service_server.errors import LeaseLost
from service_server.store.database import Connection
from service_server.store.queries import load_queries


class LeaseKind(Enum):
    """What a lease allows; a pipeline has one holder of each kind at most."""

    ALONE = auto()
    """To do anything. There is no holder of another kind meanwhile."""
    SYNC = auto()
    """To sync, while others may apply events."""
    EVENTS = auto()
    """To apply events, also beside a sync."""


_SYNC_SQL = load_queries("leases.sql")
_SQL = {
    LeaseKind.ALONE: _SYNC_SQL,
    LeaseKind.SYNC: _SYNC_SQL,
    LeaseKind.EVENTS: load_queries("applier_leases.sql"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who holds a lease.

    Attributes:
        name: The process, e.g. ``host:pid``.
        since: When it took the lease.
        time_left: How long until the lease expires unless it is renewed.
        token: The fencing token.
        is_brief: It keeps the lease for moments only.
        kind: What for.
    """

    name: str
    since: datetime
    time_left: timedelta
    token: int
    is_brief: bool = False
    kind: LeaseKind = LeaseKind.ALONE


async def acquire(
    connection: Connection,
    pipeline_id: str,
    holder: str,
    duration: timedelta,
    *,
    kind: LeaseKind = LeaseKind.ALONE,
) -> int | None:
    """Takes the lease if it is free or has expired, and none is held that excludes it.

    Returns:
        The fencing token, greater than any before it; None when another process holds such a lease,
        or there is no such pipeline.
    """
    arguments = () if kind is LeaseKind.EVENTS else (kind is LeaseKind.SYNC,)
    token: int | None = await connection.fetchval(
        _SQL[kind]["acquire"], pipeline_id, holder, duration, *arguments
    )
    return token


async def get_holder(
    connection: Connection, pipeline_id: str, kind: LeaseKind = LeaseKind.ALONE
) -> Holder | None:
    """Who has the lease; None when it is free. Those of ALONE and SYNC are one lease."""
    row = await connection.fetchrow(_SQL[kind]["get"], pipeline_id)
    if row is None:
        return None
    return Holder(
        name=row["holder"],
        since=row["acquire_time"],
        time_left=row["time_left"],
        token=row["token"],
        is_brief=row["is_brief"],
        kind=LeaseKind[row["kind"]],
    )


async def renew(
    connection: Connection,
    pipeline_id: str,
    token: int,
    duration: timedelta,
    *,
    kind: LeaseKind = LeaseKind.ALONE,
) -> bool:
    """Holds the lease for at least ``duration`` from now; False when it was taken over."""
    return bool(await connection.fetchval(_SQL[kind]["renew"], pipeline_id, token, duration))


async def require(
    connection: Connection, pipeline_id: str, token: int, *, kind: LeaseKind = LeaseKind.ALONE
) -> None:
    """Makes the rest of the transaction safe from a takeover.

    Raises:
        LeaseLost: ``token`` no longer holds the lease.
    """
    if not await connection.fetchval(_SQL[kind]["lock"], pipeline_id, token):
        raise LeaseLost(pipeline_id)


async def release(
    connection: Connection, pipeline_id: str, token: int, *, kind: LeaseKind = LeaseKind.ALONE
) -> None:
    """Frees the lease, if ``token`` still holds it."""
    await connection.execute(_SQL[kind]["release"], pipeline_id, token)
