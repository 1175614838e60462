"""One sync and one applier of events at a time per pipeline: leases, renewed while bodies run."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

import structlog

from service_server.background import BackgroundLoop, Backoff
from service_server.errors import LeaseLost, PipelineNotFound, SyncInProgress
from service_server.heartbeats import Heartbeats, Loop
from service_server.store import leases, pipelines
from service_server.store.database import Connection, Database
from service_server.store.leases import Holder, LeaseKind

_log = structlog.get_logger(__name__)

# How long, in seconds, a lease is waited for that is kept for moments only.
_PATIENCE_FOR_BRIEF = timedelta(seconds=20)
# How often whoever has patience asks, in seconds: nobody tells of a lease that is freed.
_PATIENT_INTERVAL = 0.1
# What the engine needs at most to end a call, in seconds, once its time is up, and what that comes
# late by, as it is counted from the call's arrival.
_ENDING = 1.0
# gRPC sends a deadline as a time-out of three digits, rounded up: at the engine it is later by up
# to a hundredth (src/core/lib/transport/timeout_encoding.cc).
_ROUNDING = 1.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right to sync one pipeline, or to apply its events.

    Attributes:
        pipeline_id: Which pipeline.
        kind: What it allows.
        token: The fencing token: without it nothing is stored.
        give_up: Ends the body of ``LeaseKeeper.hold`` as if the lease had been lost.
        seconds_to_work: For how long the engine may be at something, so that it has ended before
            anybody else can have the lease, should this process stand still from now on.
        last: Sees to it that there is so much. Raises LeaseLost, or StoreUnavailable.
    """

    pipeline_id: str
    kind: LeaseKind
    token: int
    give_up: Callable[[], None]
    seconds_to_work: Callable[[], float]
    last: Callable[[timedelta], Awaitable[None]]

    async def require(self, connection: Connection) -> None:
        """Makes the rest of the transaction safe from a takeover.

        Raises:
            LeaseLost: somebody else holds the lease.
        """
        await leases.require(connection, self.pipeline_id, self.token, kind=self.kind)


class LeaseKeeper:
    """Takes, renews and frees the leases of this process."""

    def __init__(
        self,
        database: Database,
        *,
        holder: str,
        duration: timedelta,
        heartbeats: Heartbeats | None = None,
    ) -> None:
        """Takes the settings.

        Args:
            database: Where the leases are.
            holder: This process, in words for whoever is turned away.
            duration: How long a lease outlives a process that died.
            heartbeats: Where the renewals' heartbeats are watched.
        """
        self._heartbeats = heartbeats or Heartbeats()
        self._database = database
        self._holder = holder
        self._duration = duration
        # Tokens of leases that could not be freed at their end, by pipeline.
        self._unfreed: dict[str, dict[int, LeaseKind]] = {}

    @asynccontextmanager
    async def hold(
        self,
        pipeline_id: str,
        *,
        patience: timedelta = timedelta(0),
        kind: LeaseKind = LeaseKind.ALONE,
        waits_for_applier: bool = True,
    ) -> AsyncIterator[Lease]:
        """Holds the lease for the body, which is cancelled at the moment the lease runs out.

        Args:
            pipeline_id: Which pipeline's.
            patience: How long to wait for whoever holds it now.
            kind: What for.
            waits_for_applier: Whether to wait for events that are being applied: that takes moments
                only, again and again.

        Raises:
            SyncInProgress: somebody else holds it.
            PipelineNotFound: there is no such pipeline.
            LeaseLost: it was taken over, or could not be renewed in time.
        """
        clock = asyncio.get_running_loop().time
        seconds = self._duration.total_seconds()
        began = clock()
        while True:
            # Counted from before the request, so that this clock runs out before the database's.
            asked_at = clock()
            taken = await self._acquire(pipeline_id, kind)
            if isinstance(taken, int):
                token = taken
                break
            is_kept_briefly = taken.is_brief and waits_for_applier
            limit = max(patience, _PATIENCE_FOR_BRIEF) if is_kept_briefly else patience
            if asked_at - began >= limit.total_seconds():
                raise _in_progress(pipeline_id, taken)
            await asyncio.sleep(_PATIENT_INTERVAL)
        try:
            async with asyncio.timeout_at(asked_at + seconds) as life:

                def give_up() -> None:
                    if not life.expired():
                        life.reschedule(clock())

                def seconds_to_work() -> float:
                    when = life.when()
                    left = when - clock() - _ENDING if when is not None else 0.0
                    return max(0.0, left / _ROUNDING)

                async def last(duration: timedelta) -> None:
                    if seconds_to_work() >= duration.total_seconds():
                        return
                    needed = duration * _ROUNDING + timedelta(seconds=_ENDING)
                    if not await self._extend(lease, life, needed):
                        raise LeaseLost(pipeline_id)

                lease = Lease(
                    pipeline_id=pipeline_id,
                    kind=kind,
                    token=token,
                    give_up=give_up,
                    seconds_to_work=seconds_to_work,
                    last=last,
                )
                async with self._renewing(lease, life):
                    try:
                        yield lease
                    finally:
                        # The body's outcome stands, however long a renewal takes to stop.
                        if not life.expired():
                            life.reschedule(None)
        except TimeoutError:
            if not life.expired():
                raise
            raise LeaseLost(pipeline_id) from None
        finally:
            await self._release(pipeline_id, token, kind)

    async def wait_for_applier(self, pipeline_id: str) -> None:
        """Waits until no events are being applied by what the pipeline was before this call.

        Raises:
            SyncInProgress: That goes on for too long.
        """
        async with self._database.connection() as connection:
            at_work = await leases.get_holder(connection, pipeline_id, LeaseKind.EVENTS)
        clock = asyncio.get_running_loop().time
        give_up_at = clock() + _PATIENCE_FOR_BRIEF.total_seconds()
        found = at_work
        while at_work and found and found.token == at_work.token and found.time_left:
            if clock() >= give_up_at:
                raise _in_progress(pipeline_id, found)
            await asyncio.sleep(_PATIENT_INTERVAL)
            async with self._database.connection() as connection:
                found = await leases.get_holder(connection, pipeline_id, LeaseKind.EVENTS)

    async def _acquire(self, pipeline_id: str, kind: LeaseKind) -> int | Holder:
        """The fencing token, or who else holds a lease that excludes it."""
        while True:
            async with self._database.connection() as connection:
                await self._free_the_unfreed(connection, pipeline_id)
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
                # Freed in between, or no such pipeline.
                if not await pipelines.exists(connection, pipeline_id):
                    raise PipelineNotFound(pipeline_id)

    def _renewing(self, lease: Lease, life: asyncio.Timeout) -> AbstractAsyncContextManager[None]:
        interval = self._duration.total_seconds() / 3

        async def renew() -> float:
            if not await self._extend(lease, life, self._duration):
                _log.warning("lease_lost", pipeline_id=lease.pipeline_id)
                lease.give_up()
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

    async def _free_the_unfreed(self, connection: Connection, pipeline_id: str) -> None:
        unfreed = self._unfreed.get(pipeline_id, {})
        for token, kind in list(unfreed.items()):
            await leases.release(connection, pipeline_id, token, kind=kind)
            unfreed.pop(token, None)
        if not unfreed:
            self._unfreed.pop(pipeline_id, None)

    async def _extend(self, lease: Lease, life: asyncio.Timeout, duration: timedelta) -> bool:
        """Has the lease last at least so long from now; False when it was taken over."""
        until = asyncio.get_running_loop().time() + duration.total_seconds()
        async with self._database.connection() as connection:
            held = await leases.renew(
                connection, lease.pipeline_id, lease.token, duration, kind=lease.kind
            )
        if held and not life.expired():
            life.reschedule(max(until, life.when() or until))
        return held

    async def _release(self, pipeline_id: str, token: int, kind: LeaseKind) -> None:
        try:
            async with self._database.connection() as connection:
                await leases.release(connection, pipeline_id, token, kind=kind)
        except Exception as error:
            # What the body did stands. The lease expires by itself, and this process does not wait
            # for that.
            self._unfreed.setdefault(pipeline_id, {})[token] = kind
            _log.warning("lease_not_released", pipeline_id=pipeline_id, error=str(error))


def _excludes(holder: Holder, kind: LeaseKind) -> bool:
    """Whether a lease of that kind cannot be had beside the holder's."""
    return LeaseKind.ALONE in (holder.kind, kind) or holder.kind is kind


def _in_progress(pipeline_id: str, holder: Holder) -> SyncInProgress:
    work = "the application of events" if holder.kind is LeaseKind.EVENTS else "another sync"
    return SyncInProgress(
        f"{work} of pipeline {pipeline_id!r} is under way, by {holder.name} since"
        f" {holder.since:%Y-%m-%dT%H:%M:%SZ}: try again when it has ended",
        metadata={"pipeline_id": pipeline_id, "holder": holder.name},
        retry_delay=holder.time_left,
    )
