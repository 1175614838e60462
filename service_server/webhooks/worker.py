"""Applies what comes into the inbox, also beside syncs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Self

import structlog

from pipesync_rpc import context as call_context
from pipesync_rpc.errors import RpcError
from service_server.errors import (
    EventRefused,
    PipelineNotFound,
    PipelinePaused,
    PipelineTornDown,
    StoreUnavailable,
    SyncInProgress,
)
from service_server.store import inbox
from service_server.store.database import Database
from service_server.webhooks.applier import InboxApplier
from service_server.webhooks.pruning import prune_by_and_by

_log = structlog.get_logger(__name__)

# How many pipelines are applied at once.
_PIPELINES_AT_ONCE = 8
# Seconds after which the inbox is looked into although nobody notified.
_LOOK_AGAIN = 5.0
# Seconds between two looks, however many notify.
_GATHER = 0.05
# Seconds that a pipeline is left to others after a turn, or until its sync is over perhaps.
_REST = 0.3
# That it is left to others for each second that its turn took and for each turn beside it.
_REST_UNDER_LOAD = 4.0
_BUSY = 1.0
# Seconds that a pipeline is left alone after a failure: twice as long after each further one.
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 60.0
_MOST_DOUBLINGS = 10


@dataclass(slots=True)
class _Patience:
    """When a pipeline is tried again.

    Attributes:
        until: Not before, on the event loop's clock.
        failures: How many there were in a row.
    """

    until: float = 0.0
    failures: int = 0


class InboxWorker:
    """Has the applier take its turns. Any service may: the lease decides.

    Between the steps of a continuous pipeline, that is left to its turns.
    """

    def __init__(self, database: Database, applier: InboxApplier) -> None:
        self._database = database
        self._applier = applier
        self._woken = asyncio.Event()
        self._turns: dict[str, asyncio.Task[None]] = {}
        self._patience: dict[str, _Patience] = {}

    @classmethod
    @asynccontextmanager
    async def running(
        cls, database: Database, applier: InboxApplier, *, retention: timedelta, grace: float
    ) -> AsyncIterator[Self]:
        """Works during the body.

        Args:
            database: Where the inbox is.
            applier: What applies it.
            retention: How long events are kept once they are applied.
            grace: At the end, turns that are not over in so many seconds are cut. Nothing is lost
                by that: what a turn had not marked is applied again.
        """
        worker = cls(database, applier)
        tasks = [
            asyncio.create_task(worker._work()),
            asyncio.create_task(prune_by_and_by(database, retention)),
        ]
        try:
            yield worker
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await worker._end_turns(grace)

    def look(self, _pipeline_id: str | None = None) -> None:
        """Has the inbox looked into: something came in, or may have."""
        self._woken.set()

    async def _work(self) -> None:
        while True:
            self._woken.clear()
            try:
                await self._start_turns()
            except StoreUnavailable as error:
                _log.warning("inbox_not_read", error=str(error))
            except Exception:
                _log.exception("inbox_not_read")
            await asyncio.sleep(_GATHER)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._seconds_to_next_look()):
                    await self._woken.wait()

    async def _start_turns(self) -> None:
        async with self._database.connection() as connection:
            await inbox.requeue_repeats(connection)
            waiting = await inbox.waiting_pipelines(connection)
        self._forget_all_but(waiting)
        now = asyncio.get_running_loop().time()
        for pipeline_id in waiting:
            self._patience.setdefault(pipeline_id, _Patience())
        # Whoever has been waiting longest comes first, so that busy ones keep nobody out.
        for pipeline_id in sorted(waiting, key=lambda each: self._patience[each].until):
            patience = self._patience[pipeline_id]
            if len(self._turns) >= _PIPELINES_AT_ONCE or patience.until > now:
                break
            if pipeline_id not in self._turns:
                turn = asyncio.create_task(self._take_turn(pipeline_id, patience))
                self._turns[pipeline_id] = turn

    async def _take_turn(self, pipeline_id: str, patience: _Patience) -> None:
        call_context.bind(request_id=call_context.new_request_id(), pipeline_id=pipeline_id)
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            await self._applier.apply(pipeline_id)
            patience.failures = 0
            # The more there is to do beside, the more events share the price of a turn.
            load = (clock() - began) * len(self._turns)
            patience.until = clock() + max(_REST, _REST_UNDER_LOAD * load)
        except SyncInProgress:
            patience.until = clock() + _BUSY
        except (PipelineNotFound, PipelinePaused, PipelineTornDown):
            patience.until = clock() + _LOOK_AGAIN
        except Exception as error:
            if isinstance(error, EventRefused):
                # The pauses are this event's own: the one before it may be set aside by now.
                patience.failures = error.failed_attempts - 1
            pause = min(_FIRST_PAUSE * 2 ** min(patience.failures, _MOST_DOUBLINGS), _LONGEST_PAUSE)
            patience.failures += 1
            patience.until = clock() + pause
            _log.warning(
                "webhook_events_not_applied",
                error=str(error),
                retry_in_seconds=pause,
                exc_info=None if isinstance(error, RpcError) else error,
            )
        finally:
            del self._turns[pipeline_id]
            self._woken.set()

    def _forget_all_but(self, waiting: list[str]) -> None:
        for pipeline_id in self._patience.keys() - set(waiting) - self._turns.keys():
            # A rest is for the others' sake, also when nothing was left for a moment.
            if self._patience[pipeline_id].until <= asyncio.get_running_loop().time():
                del self._patience[pipeline_id]

    def _seconds_to_next_look(self) -> float:
        now = asyncio.get_running_loop().time()
        due = [
            patience.until - now
            for pipeline_id, patience in self._patience.items()
            if pipeline_id not in self._turns and patience.until > now
        ]
        return min([_LOOK_AGAIN, *due])

    async def _end_turns(self, grace: float) -> None:
        turns = list(self._turns.values())
        if not turns:
            return
        _, pending = await asyncio.wait(turns, timeout=grace)
        for turn in pending:
            turn.cancel()
        if pending:
            await asyncio.wait(pending)
