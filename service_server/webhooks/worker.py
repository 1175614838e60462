"""Worker that applies the events in the inbox, also while syncs run."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from functools import partial
from typing import Self

import structlog

from pipesync_rpc.errors import RpcError
from service_server.background.due_work import DueWork
from service_server.background.fair_shares import FairShares, IdFilter
from service_server.background.heartbeats import Heartbeats, Loop
from service_server.errors import (
    EventRefused,
    PipelineBeingDeleted,
    PipelineNotFound,
    PipelinePaused,
    PipelineTornDown,
    StoreUnavailable,
    SyncInProgress,
)
from service_server.store import inbox
from service_server.store.database import Database
from service_server.webhooks.applier import InboxApplier
from service_server.webhooks.turn_times import TurnTimes

_log = structlog.get_logger(__name__)

# Pipelines whose events are applied concurrently.
_PIPELINES_AT_ONCE = 8
# Seconds after which the inbox is read without a notification.
_LOOK_AGAIN = 5.0
# Least number of seconds between two reads of the inbox.
_GATHER = 0.05
# Least delay of a pipeline's next turn after a turn, in seconds.
_REST = 0.2
# Delay of the next turn for each second that the turn took, times the number of concurrent turns.
_REST_UNDER_LOAD = 0.5
# Delay after a turn that met a sync in progress, in seconds.
_BUSY = 1.0
# Delay after a failure, in seconds: doubled after each further one.
_FIRST_DELAY = 1.0
_LONGEST_DELAY = 60.0
# The longest delay after an error of the service or its database, which affects all pipelines and
# ends for all at once.
_LONGEST_OWN_DELAY = 5.0
_MOST_DOUBLINGS = 10


class InboxWorker:
    """Runs the turns of the applier.

    Every replica runs them: the lease decides which one applies the events of a pipeline. Between
    the steps of a continuous pipeline, its lifecycle applies the events.
    """

    def __init__(
        self,
        database: Database,
        applier: InboxApplier,
        heartbeats: Heartbeats,
        prefixes: Callable[[], Collection[str]] = frozenset,
    ) -> None:
        self._database = database
        self._applier = applier
        places = FairShares(_PIPELINES_AT_ONCE, prefixes)
        self._work = DueWork(Loop.INBOX_WORKER, self._start_turns, heartbeats, shares=places)
        self._times = TurnTimes()

    @classmethod
    @asynccontextmanager
    async def running(
        cls,
        database: Database,
        applier: InboxApplier,
        *,
        grace: float,
        heartbeats: Heartbeats,
        prefixes: Callable[[], Collection[str]] = frozenset,
    ) -> AsyncIterator[Self]:
        """Run during the body.

        Args:
            database: The database with the inbox.
            applier: The applier of events.
            grace: Seconds that running turns have at the end before they are cancelled. Events of
                a cancelled turn that are not marked as applied are applied again.
            heartbeats: Registry for the heartbeat of the loop.
            prefixes: Returns the prefixes of the teams that share the places.
        """
        worker = cls(database, applier, heartbeats, prefixes)
        async with worker._work.running(grace=grace):
            yield worker

    def wake(self, _pipeline_id: str | None = None) -> None:
        """Read the inbox soon, because an event arrived or may have arrived."""
        self._work.wake()

    async def _start_turns(self, _places: int, _among: IdFilter) -> float:
        clock = asyncio.get_running_loop().time
        looked_at = clock()
        async with self._database.connection() as connection:
            await inbox.requeue_repeats(connection)
            waiting = await inbox.waiting_pipelines(connection)
        # The longest due come first, so that busy pipelines do not starve others.
        for pipeline_id in self._times.due(waiting, self._work.under_way, looked_at):
            if self._work.has_place_for(pipeline_id):
                self._work.start(
                    pipeline_id,
                    partial(self._take_turn, pipeline_id),
                    partial(self._postpone_after, pipeline_id),
                )
        await asyncio.sleep(_GATHER)
        seconds = self._times.seconds_to_next(self._work.under_way, clock())
        return _LOOK_AGAIN if seconds is None else min(seconds, _LOOK_AGAIN)

    async def _take_turn(self, pipeline_id: str) -> None:
        clock = asyncio.get_running_loop().time
        began = clock()
        await self._applier.apply(pipeline_id)
        # Under load, turns are rarer and apply more events each, which costs less per event.
        load = (clock() - began) * len(self._work.under_way)
        self._times.succeeded(pipeline_id, clock() + max(_REST, _REST_UNDER_LOAD * load))

    async def _postpone_after(self, pipeline_id: str, error: BaseException) -> None:
        match error:
            case SyncInProgress():
                delay = _BUSY
            case (
                PipelineNotFound() | PipelinePaused() | PipelineBeingDeleted() | PipelineTornDown()
            ):
                delay = _LOOK_AGAIN
            case _:
                delay = self._delay(pipeline_id, error)
                _log.warning(
                    "webhook_events_not_applied",
                    error=str(error),
                    retry_in_seconds=delay,
                    exc_info=None if isinstance(error, RpcError) else error,
                )
        self._times.postpone(pipeline_id, asyncio.get_running_loop().time() + delay)

    def _delay(self, pipeline_id: str, error: BaseException) -> float:
        # Each event has its own series of delays: the one before it may be dead-lettered by now.
        known = error.failed_attempts if isinstance(error, EventRefused) else None
        failures = self._times.failed(pipeline_id, failures=known)
        delay: float = _FIRST_DELAY * 2 ** min(failures - 1, _MOST_DOUBLINGS)
        is_own = isinstance(error, StoreUnavailable) or not isinstance(error, RpcError)
        return min(delay, _LONGEST_OWN_DELAY if is_own else _LONGEST_DELAY)
