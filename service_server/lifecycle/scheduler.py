"""Scheduler of the steps of all continuous pipelines; each replica runs one."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from functools import partial

import structlog

from service_server.background.due_work import DueWork
from service_server.background.fair_shares import FairShares, IdFilter
from service_server.background.heartbeats import Heartbeats, Loop
from service_server.background.loop import keep_trying
from service_server.errors import LeaseLost, PipelineNotFound, StoreUnavailable, SyncInProgress
from service_server.lifecycle.executor import StepExecutor
from service_server.store import lifecycles
from service_server.store.database import Database
from service_server.store.lifecycles import Claim

_log = structlog.get_logger(__name__)

# Maximum seconds between two looks for due pipelines: a notification may get lost.
_MAX_INTERVAL = 10.0
_MIN_INTERVAL = 0.05
# Delay of a step whose pipeline another process holds, and the maximum of that delay.
_BUSY_DELAY = timedelta(seconds=1)
_MAX_BUSY_DELAY = timedelta(seconds=3)
# Delay of a step after an unexpected exception; it doubles with each further one.
_FAULT_DELAY = timedelta(seconds=1)
_MAX_FAULT_DOUBLINGS = 6
# Seconds to finish claiming at shutdown. If that is cut off, its claims lapse later.
_CLAIM_GRACE = 2.0


class Scheduler:
    """Claims pipelines that are due, by the due times in Postgres, and runs their steps."""

    def __init__(
        self,
        *,
        database: Database,
        executor: StepExecutor,
        places: FairShares,
        claim: timedelta,
        heartbeats: Heartbeats,
    ) -> None:
        """Initialize without starting.

        Args:
            database: The database that holds the due times.
            executor: Runs the steps.
            places: Places for steps under way at once.
            claim: After this time, another replica runs a step whose result was not stored.
            heartbeats: Watches the scheduler's loops.
        """
        self._database = database
        self._executor = executor
        self._claim = claim
        self._heartbeats = heartbeats
        self._work = DueWork(Loop.SCHEDULER, self._start_steps, heartbeats, shares=places)
        # Number of steps of a pipeline in a row that raised an unexpected exception.
        self._faults: Counter[str] = Counter()
        self._ending = asyncio.Event()

    def wake(self, _: str | None = None) -> None:
        """Look for due pipelines now."""
        self._work.wake()

    def request_shutdown(self) -> None:
        """Start no more steps; those under way end at their next checkpoint."""
        self._ending.set()
        self._work.end()

    @asynccontextmanager
    async def running(self, grace: float) -> AsyncIterator[None]:
        """Run steps during the body, then wait for those under way.

        Args:
            grace: Seconds until those are cancelled.
        """
        async with self._work.running(grace=grace, start_grace=_CLAIM_GRACE):
            try:
                yield
            finally:
                self.request_shutdown()

    async def _start_steps(self, places: int, among: IdFilter) -> float:
        """Start due steps, and return the seconds until the next look, unless the loop is woken."""
        async with self._database.connection() as connection:
            claims = await lifecycles.claim(connection, places, self._claim, among)
            # Before anything else can fail: no other process takes these claims until they lapse.
            for claim in claims:
                self._work.start(
                    claim.pipeline_id,
                    partial(self._run_step, claim),
                    partial(self._postpone_after, claim),
                )
            next_due = await lifecycles.time_to_next(connection, among)
        if len(claims) == places:
            return 0.0
        if next_due is None:
            return _MAX_INTERVAL
        # If a pipeline is already due, another replica is just claiming it.
        return min(max(next_due.total_seconds(), _MIN_INTERVAL), _MAX_INTERVAL)

    async def _run_step(self, claim: Claim) -> None:
        with suppress(PipelineNotFound):
            await self._executor.run_step(claim)
        self._faults.pop(claim.pipeline_id, None)

    async def _postpone_after(self, claim: Claim, error: BaseException) -> None:
        match error:
            case SyncInProgress():
                delay = min(error.retry_delay or _BUSY_DELAY, _MAX_BUSY_DELAY)
            case LeaseLost() | StoreUnavailable():
                _log.warning("turn_lost", error=str(error))
                delay = _BUSY_DELAY
            case _:
                _log.error("turn_failed", exc_info=error)
                doublings = min(self._faults[claim.pipeline_id], _MAX_FAULT_DOUBLINGS)
                self._faults[claim.pipeline_id] += 1
                delay = _FAULT_DELAY * 2**doublings

        async def postpone() -> None:
            async with self._database.connection() as connection:
                await lifecycles.postpone(connection, claim.pipeline_id, delay)

        await keep_trying(
            postpone,
            Loop.POSTPONEMENT,
            self._heartbeats,
            # The claim has lapsed by then, so the pipeline is due without it.
            seconds=self._claim.total_seconds(),
            ended=self._ending,
            subject=claim.pipeline_id,
        )
