"""Leases on pipelines: who may sync a pipeline now, and who may apply its events."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, auto

from service_server.errors import LeaseLost
from service_server.store.database import Connection
from service_server.store.queries import load_queries


class LeaseKind(Enum):
    """Kind of a lease. A pipeline has at most one holder of each kind."""

    EXCLUSIVE = auto()
    """Allows everything, and excludes the other kinds."""
    SYNC = auto()
    """Allows a sync, during which another holder may apply events."""
    EVENTS = auto()
    """Allows its holder to apply events, also during a sync."""


_SYNC_SQL = load_queries("leases.sql")
_SQL = {
    LeaseKind.EXCLUSIVE: _SYNC_SQL,
    LeaseKind.SYNC: _SYNC_SQL,
    LeaseKind.EVENTS: load_queries("applier_leases.sql"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Holder of a lease.

    Attributes:
        name: Name of the process, for example ``host:pid``.
        since: When it took the lease.
        time_left: Time until the lease expires unless it is renewed.
        token: Fencing token.
        short_lived: Whether it holds the lease for moments only.
        kind: Kind of the lease.
    """

    name: str
    since: datetime
    time_left: timedelta
    token: int
    short_lived: bool = False
    kind: LeaseKind = LeaseKind.EXCLUSIVE


async def acquire(
    connection: Connection,
    pipeline_id: str,
    holder: str,
    duration: timedelta,
    *,
    kind: LeaseKind = LeaseKind.EXCLUSIVE,
) -> int | None:
    """Take a lease unless one is held that excludes it.

    Returns:
        The fencing token, greater than all before it; None if another process holds such a lease,
        or the pipeline does not exist.
    """
    arguments = () if kind is LeaseKind.EVENTS else (kind is LeaseKind.SYNC,)
    token: int | None = await connection.fetchval(
        _SQL[kind]["acquire"], pipeline_id, holder, duration, *arguments
    )
    return token


async def get_holder(
    connection: Connection, pipeline_id: str, kind: LeaseKind = LeaseKind.EXCLUSIVE
) -> Holder | None:
    """Return the holder of a lease; None if it is free. EXCLUSIVE and SYNC share one lease."""
    row = await connection.fetchrow(_SQL[kind]["get"], pipeline_id)
    if row is None:
        return None
    return Holder(
        name=row["holder"],
        since=row["acquire_time"],
        time_left=row["time_left"],
        token=row["token"],
        short_lived=row["is_brief"],
        kind=LeaseKind[row["kind"]],
    )


async def renew(
    connection: Connection,
    pipeline_id: str,
    token: int,
    duration: timedelta,
    *,
    kind: LeaseKind = LeaseKind.EXCLUSIVE,
) -> bool:
    """Extend a lease to at least ``duration`` from now; False if ``token`` no longer holds it."""
    return bool(await connection.fetchval(_SQL[kind]["renew"], pipeline_id, token, duration))


async def require(
    connection: Connection, pipeline_id: str, token: int, *, kind: LeaseKind = LeaseKind.EXCLUSIVE
) -> None:
    """Prevent a takeover of the lease until the transaction ends.

    Raises:
        LeaseLost: ``token`` no longer holds the lease.
    """
    if not await connection.fetchval(_SQL[kind]["lock"], pipeline_id, token):
        raise LeaseLost(pipeline_id)


async def release(
    connection: Connection, pipeline_id: str, token: int, *, kind: LeaseKind = LeaseKind.EXCLUSIVE
) -> None:
    """Release a lease if ``token`` still holds it."""
    await connection.execute(_SQL[kind]["release"], pipeline_id, token)
