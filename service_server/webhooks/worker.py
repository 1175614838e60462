"""Applies what comes into the inbox, also beside syncs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Self

import structlog

from pipesync_rpc import context as call_context
from pipesync_rpc.errors import RpcError
from service_server.background import BackgroundLoop, is_cancelled
from service_server.errors import (
    EventRefused,
    PipelineNotFound,
    PipelinePaused,
    PipelineTornDown,
    StoreUnavailable,
    SyncInProgress,
)
from service_server.heartbeats import Heartbeats, Loop
from service_server.store import inbox
from service_server.store.database import Database
from service_server.webhooks.applier import InboxApplier
from service_server.webhooks.pruning import pruning_inbox
from service_server.webhooks.turn_times import TurnTimes

_log = structlog.get_logger(__name__)

# How many pipelines are applied at once.
_PIPELINES_AT_ONCE = 8
# Seconds after which the inbox is looked into although nobody notified.
_LOOK_AGAIN = 5.0
# Seconds between two looks, however many notify.
_GATHER = 0.05
# Seconds that a pipeline is left to others after a turn, or until its sync is over perhaps.
_REST = 0.2
# That it is left to others for each second that its turn took and for each turn beside it.
_REST_UNDER_LOAD = 0.5
_BUSY = 1.0
# Seconds that a pipeline is left alone after a failure: twice as long after each further one.
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 60.0
# The longest where the fault is the service's own, or its database's: it ends for all at once.
_LONGEST_OWN_PAUSE = 5.0
_MOST_DOUBLINGS = 10


class InboxWorker:
    """Has the applier take its turns. Any service may: the lease decides.

    Between the steps of a continuous pipeline, that is left to its turns.
    """

    def __init__(self, database: Database, applier: InboxApplier, heartbeats: Heartbeats) -> None:
        self._database = database
        self._applier = applier
        self._loop = BackgroundLoop(Loop.INBOX_WORKER, self._start_turns, heartbeats)
        self._turns: dict[str, asyncio.Task[None]] = {}
        self._times = TurnTimes()

    @classmethod
    @asynccontextmanager
    async def running(
        cls,
        database: Database,
        applier: InboxApplier,
        *,
        retention: timedelta,
        grace: float,
        heartbeats: Heartbeats,
    ) -> AsyncIterator[Self]:
        """Works during the body.

        Args:
            database: Where the inbox is.
            applier: What applies it.
            retention: How long events are kept once they are applied.
            grace: At the end, turns that are not over in so many seconds are cut. Nothing is lost
                by that: what a turn had not marked is applied again.
            heartbeats: Where its loops are watched.
        """
        worker = cls(database, applier, heartbeats)
        try:
            async with pruning_inbox(database, retention, heartbeats), worker._loop.running():
                yield worker
        finally:
            await worker._end_turns(grace)

    def look(self, _pipeline_id: str | None = None) -> None:
        """Has the inbox looked into: something came in, or may have."""
        self._loop.wake()

    async def _start_turns(self) -> float:
        clock = asyncio.get_running_loop().time
        looked_at = clock()
        async with self._database.connection() as connection:
            await inbox.requeue_repeats(connection)
            waiting = await inbox.waiting_pipelines(connection)
        # Those that have been waiting longest come first, so that busy ones keep none out.
        for pipeline_id in self._times.due(waiting, self._turns.keys(), looked_at):
            if len(self._turns) >= _PIPELINES_AT_ONCE:
                # The end of a turn wakes the loop.
                break
            self._turns[pipeline_id] = asyncio.create_task(self._take_turn(pipeline_id))
        await asyncio.sleep(_GATHER)
        seconds = self._times.seconds_to_next(self._turns.keys(), clock())
        return _LOOK_AGAIN if seconds is None else min(seconds, _LOOK_AGAIN)

    async def _take_turn(self, pipeline_id: str) -> None:
        call_context.bind(request_id=call_context.new_request_id(), pipeline_id=pipeline_id)
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            await self._applier.apply(pipeline_id)
            # The more there is to do beside, the more events share the price of a turn.
            load = (clock() - began) * len(self._turns)
            self._times.succeeded(pipeline_id, clock() + max(_REST, _REST_UNDER_LOAD * load))
        except SyncInProgress:
            self._times.postpone(pipeline_id, clock() + _BUSY)
        except (PipelineNotFound, PipelinePaused, PipelineTornDown):
            self._times.postpone(pipeline_id, clock() + _LOOK_AGAIN)
        except (Exception, asyncio.CancelledError) as error:
            if is_cancelled():
                raise
            pause = self._pause(pipeline_id, error)
            self._times.postpone(pipeline_id, clock() + pause)
            _log.warning(
                "webhook_events_not_applied",
                error=str(error),
                retry_in_seconds=pause,
                exc_info=None if isinstance(error, RpcError) else error,
            )
        finally:
            del self._turns[pipeline_id]
            self._loop.wake()

    def _pause(self, pipeline_id: str, error: BaseException) -> float:
        # The pauses are an event's own: the one before it may be set aside by now.
        known = error.failed_attempts if isinstance(error, EventRefused) else None
        failures = self._times.failed(pipeline_id, failures=known)
        pause: float = _FIRST_PAUSE * 2 ** min(failures - 1, _MOST_DOUBLINGS)
        is_own = isinstance(error, StoreUnavailable) or not isinstance(error, RpcError)
        return min(pause, _LONGEST_OWN_PAUSE if is_own else _LONGEST_PAUSE)

    async def _end_turns(self, grace: float) -> None:
        turns = list(self._turns.values())
        if not turns:
            return
        _, pending = await asyncio.wait(turns, timeout=grace)
        for turn in pending:
            turn.cancel()
        if pending:
            await asyncio.wait(pending)
