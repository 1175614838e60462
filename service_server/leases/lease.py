"""Lease on one pipeline, held by this process."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from service_server.errors import LeaseLost
from service_server.store import leases
from service_server.store.database import Connection, Database
from service_server.store.leases import LeaseKind

# Maximum seconds by which a call outlasts its deadline at the engine, which counts the time from
# the call's arrival and then has to end the call.
_ENDING = 1.0
# gRPC sends a deadline as a timeout of three digits, rounded up, so that the engine's deadline may
# be later by a hundredth (src/core/lib/transport/timeout_encoding.cc).
_ROUNDING = 1.01


class Lease:
    """The right to sync one pipeline, or to apply its events.

    Attributes:
        pipeline_id: Id of the pipeline.
        kind: Kind of the lease.
        token: Fencing token, which every write needs.
    """

    def __init__(
        self,
        database: Database,
        pipeline_id: str,
        *,
        kind: LeaseKind,
        token: int,
        expiry: asyncio.Timeout,
    ) -> None:
        """Initialize with a lease that is taken.

        Args:
            database: The database that holds the lease.
            pipeline_id: Id of the pipeline.
            kind: Kind of the lease.
            token: Fencing token.
            expiry: Cancels the holder's work when the lease expires.
        """
        self.pipeline_id = pipeline_id
        self.kind = kind
        self.token = token
        self._database = database
        self._expiry = expiry

    def usable_seconds(self) -> float:
        """Return the timeout for a call to the engine.

        The call is certain to end before another process can take the lease, even if this process
        freezes now.
        """
        when = self._expiry.when()
        left = when - asyncio.get_running_loop().time() - _ENDING if when is not None else 0.0
        return max(0.0, left / _ROUNDING)

    async def ensure_remaining(self, duration: timedelta) -> None:
        """Extend the lease so that ``usable_seconds`` is at least ``duration``.

        Raises:
            LeaseLost: Another process has taken the lease over.
            StoreUnavailable: The database is unavailable.
        """
        if self.usable_seconds() >= duration.total_seconds():
            return
        if not await self.extend(duration * _ROUNDING + timedelta(seconds=_ENDING)):
            raise LeaseLost(self.pipeline_id)

    async def extend(self, duration: timedelta) -> bool:
        """Extend the lease to at least ``duration`` from now.

        Returns:
            False if another process has taken the lease over.
        """
        until = asyncio.get_running_loop().time() + duration.total_seconds()
        async with self._database.connection() as connection:
            held = await leases.renew(
                connection, self.pipeline_id, self.token, duration, kind=self.kind
            )
        if held and not self._expiry.expired():
            self._expiry.reschedule(max(until, self._expiry.when() or until))
        return held

    def abandon(self) -> None:
        """End the body of ``LeaseKeeper.hold`` as if the lease had been lost."""
        if not self._expiry.expired():
            self._expiry.reschedule(asyncio.get_running_loop().time())

    async def require(self, connection: Connection) -> None:
        """Prevent a takeover of the lease until the transaction ends.

        Raises:
            LeaseLost: Another process has taken the lease over.
        """
        await leases.require(connection, self.pipeline_id, self.token, kind=self.kind)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Open a transaction for the body, during which no other process takes the lease over.

        Raises:
            LeaseLost: Another process has taken the lease over; nothing is stored.
            StoreUnavailable: The database is unavailable.
        """
        async with self._database.transaction() as connection:
            await self.require(connection)
            yield connection
