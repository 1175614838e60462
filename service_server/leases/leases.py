"""Leases that allow one sync and one applier of events at a time per pipeline."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta

import structlog

from service_server.background.heartbeats import Heartbeats, Loop
from service_server.background.loop import BackgroundLoop, Backoff
from service_server.errors import LeaseLost, PipelineNotFound, SyncInProgress
from service_server.leases.lease import Lease
from service_server.store import leases, pipelines
from service_server.store.database import Connection, Database
from service_server.store.leases import Holder, LeaseKind

_log = structlog.get_logger(__name__)

# Minimum time to wait for a lease that is held for moments only.
_SHORT_LIVED_TIMEOUT = timedelta(seconds=20)
# Seconds between two attempts: the release of a lease is not notified.
_RETRY_INTERVAL = 0.1


class LeaseKeeper:
    """Takes, renews and releases the leases of this process."""

    def __init__(
        self,
        database: Database,
        *,
        holder: str,
        duration: timedelta,
        heartbeats: Heartbeats | None = None,
    ) -> None:
        """Initialize without any lease.

        Args:
            database: The database that holds the leases.
            holder: Name of this process in the errors of other processes.
            duration: Time after which the lease of a process that died expires.
            heartbeats: Watches the heartbeats of the renewals.
        """
        self._heartbeats = heartbeats or Heartbeats()
        self._database = database
        self._holder = holder
        self._duration = duration
        # Tokens of leases whose release failed, by pipeline.
        self._unreleased: dict[str, dict[int, LeaseKind]] = {}

    @asynccontextmanager
    async def hold(
        self,
        pipeline_id: str,
        *,
        timeout: timedelta = timedelta(0),
        kind: LeaseKind = LeaseKind.EXCLUSIVE,
        waits_for_applier: bool = True,
    ) -> AsyncIterator[Lease]:
        """Hold a lease, renewed, during the body, which is cancelled when the lease expires.

        Args:
            pipeline_id: Id of the pipeline.
            timeout: How long to wait for another holder.
            kind: Kind of the lease.
            waits_for_applier: Whether to wait longer for an applier of events, which holds its
                lease for moments only, but often.

        Raises:
            SyncInProgress: Another holder has an excluding lease.
            PipelineNotFound: The pipeline does not exist.
            LeaseLost: Another process has taken the lease over, or it was not renewed in time.
        """
        requested_at, token = await self._take(
            pipeline_id, kind, timeout, waits_for_applier=waits_for_applier
        )
        try:
            async with asyncio.timeout_at(requested_at + self._duration.total_seconds()) as expiry:
                lease = Lease(self._database, pipeline_id, kind=kind, token=token, expiry=expiry)
                async with self._renewing(lease):
                    try:
                        yield lease
                    finally:
                        # The body's outcome stands even if the renewal takes long to stop.
                        if not expiry.expired():
                            expiry.reschedule(None)
        except TimeoutError:
            if not expiry.expired():
                raise
            raise LeaseLost(pipeline_id) from None
        finally:
            await self._release(pipeline_id, token, kind)

    async def wait_for_applier(self, pipeline_id: str) -> None:
        """Wait until an applier that may have loaded the pipeline before this call has finished.

        Raises:
            SyncInProgress: The applier takes too long.
        """
        async with self._database.connection() as connection:
            current = await leases.get_holder(connection, pipeline_id, LeaseKind.EVENTS)
        clock = asyncio.get_running_loop().time
        deadline = clock() + _SHORT_LIVED_TIMEOUT.total_seconds()
        found = current
        while current and found and found.token == current.token and found.time_left:
            if clock() >= deadline:
                raise _in_progress(pipeline_id, found)
            await asyncio.sleep(_RETRY_INTERVAL)
            async with self._database.connection() as connection:
                found = await leases.get_holder(connection, pipeline_id, LeaseKind.EVENTS)

    async def _take(
        self, pipeline_id: str, kind: LeaseKind, timeout: timedelta, *, waits_for_applier: bool
    ) -> tuple[float, int]:
        """Wait for a lease, and return the time of the request that took it, and its token."""
        clock = asyncio.get_running_loop().time
        began = clock()
        while True:
            # Read before the request, so that the lease expires here before the database's.
            requested_at = clock()
            taken = await self._acquire(pipeline_id, kind)
            if isinstance(taken, int):
                return requested_at, taken
            waits_longer = taken.short_lived and waits_for_applier
            limit = max(timeout, _SHORT_LIVED_TIMEOUT) if waits_longer else timeout
            if requested_at - began >= limit.total_seconds():
                raise _in_progress(pipeline_id, taken)
            await asyncio.sleep(_RETRY_INTERVAL)

    async def _acquire(self, pipeline_id: str, kind: LeaseKind) -> int | Holder:
        """Return the fencing token, or the holder of a lease that excludes this one."""
        while True:
            async with self._database.connection() as connection:
                await self._release_leftovers(connection, pipeline_id)
                token = await leases.acquire(
                    connection, pipeline_id, self._holder, self._duration, kind=kind
                )
                if token is not None:
                    return token
                holders = [
                    await leases.get_holder(connection, pipeline_id, other)
                    for other in (LeaseKind.SYNC, LeaseKind.EVENTS)
                ]
                for holder in filter(None, holders):
                    if _excludes(holder, kind):
                        return holder
                # The lease was released in between, or the pipeline does not exist.
                if not await pipelines.exists(connection, pipeline_id):
                    raise PipelineNotFound(pipeline_id)

    def _renewing(self, lease: Lease) -> AbstractAsyncContextManager[None]:
        interval = self._duration.total_seconds() / 3

        async def renew() -> float:
            if not await lease.extend(self._duration):
                _log.warning("lease_lost", pipeline_id=lease.pipeline_id)
                lease.abandon()
                renewal.end()
            return interval

        renewal = BackgroundLoop(
            Loop.LEASE_RENEWAL,
            renew,
            self._heartbeats,
            backoff=Backoff(interval / 10, interval / 2),
            subject=lease.pipeline_id,
        )
        return renewal.running(first_in=interval)

    async def _release_leftovers(self, connection: Connection, pipeline_id: str) -> None:
        unreleased = self._unreleased.get(pipeline_id, {})
        for token, kind in list(unreleased.items()):
            await leases.release(connection, pipeline_id, token, kind=kind)
            unreleased.pop(token, None)
        if not unreleased:
            self._unreleased.pop(pipeline_id, None)

    async def _release(self, pipeline_id: str, token: int, kind: LeaseKind) -> None:
        try:
            async with self._database.connection() as connection:
                await leases.release(connection, pipeline_id, token, kind=kind)
        except Exception as error:
            # The body's outcome stands. Other processes wait until the lease expires; this one
            # releases it before it takes another lease of the pipeline.
            self._unreleased.setdefault(pipeline_id, {})[token] = kind
            _log.warning("lease_not_released", pipeline_id=pipeline_id, error=str(error))


def _excludes(holder: Holder, kind: LeaseKind) -> bool:
    """Return whether the holder's lease excludes one of ``kind``."""
    return LeaseKind.EXCLUSIVE in (holder.kind, kind) or holder.kind is kind


def _in_progress(pipeline_id: str, holder: Holder) -> SyncInProgress:
    work = {
        LeaseKind.EVENTS: "the application of events",
        LeaseKind.SYNC: "a sync or a setup",
        LeaseKind.EXCLUSIVE: "a removal, a simulation or a retry",
    }[holder.kind]
    return SyncInProgress(
        f"{work} of pipeline {pipeline_id!r} is under way, by {holder.name} since"
        f" {holder.since:%Y-%m-%dT%H:%M:%SZ}: try again when it has ended",
        metadata={"pipeline_id": pipeline_id, "holder": holder.name},
        retry_delay=holder.time_left,
    )
