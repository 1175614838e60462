"""Has every pipeline that is due take its turn, so many at once; any replica can do so."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import structlog

from pipesync_rpc import context as call_context
from service_server.background import BackgroundLoop, is_cancelled, keep_trying
from service_server.errors import LeaseLost, PipelineNotFound, StoreUnavailable, SyncInProgress
from service_server.heartbeats import Heartbeats, Loop
from service_server.lifecycle.turns import Turns
from service_server.store import lifecycles
from service_server.store.database import Database
from service_server.store.lifecycles import Claim

_log = structlog.get_logger(__name__)

# Looks at least this often, in seconds: a notification may get lost on its way.
_LONGEST_WAIT = 10.0
_LEAST_WAIT = 0.05
# When to look again after somebody else was found at it.
_BUSY_PAUSE = timedelta(seconds=1)
_LONGEST_BUSY_PAUSE = timedelta(seconds=3)
# When to try a turn again that met a fault of the service's own: twice as long after each more.
_FAULT_PAUSE = timedelta(seconds=1)
_MOST_FAULT_DOUBLINGS = 6
# Seconds that claiming may take to end with the service. What it claimed then lapses.
_CLAIM_GRACE = 2.0


class Runner:
    """One scheduler for all pipelines; which of them are due stands in Postgres."""

    def __init__(
        self,
        *,
        database: Database,
        turns: Turns,
        most_at_once: int,
        claim: timedelta,
        heartbeats: Heartbeats,
    ) -> None:
        """Takes the settings.

        Args:
            database: Where it stands which pipelines are due.
            turns: Takes them.
            most_at_once: How many turns are taken at the same time.
            claim: After this, a turn whose end nobody stored is taken by another replica.
            heartbeats: Where its loops are watched.
        """
        self._database = database
        self._turns = turns
        self._most_at_once = most_at_once
        self._claim = claim
        self._heartbeats = heartbeats
        self._loop = BackgroundLoop(Loop.SCHEDULER, self._begin_turns, heartbeats)
        self._running: set[asyncio.Task[None]] = set()
        # How many turns of a pipeline met such a fault in a row.
        self._faults: Counter[str] = Counter()
        self._ending = asyncio.Event()

    def look(self, _: str | None = None) -> None:
        """Has the runner look for what is due now."""
        self._loop.wake()

    def end_softly(self) -> None:
        """Begins no more turns; those under way end by themselves, at their next checkpoint."""
        self._ending.set()
        self._loop.end()

    @asynccontextmanager
    async def running(self, grace: float) -> AsyncIterator[None]:
        """Runs for the length of the body, then waits for the turns that are under way.

        Args:
            grace: After so many seconds those are cancelled.
        """
        try:
            async with self._loop.running(grace=_CLAIM_GRACE):
                yield
        finally:
            self.end_softly()
            if self._running:
                _, pending = await asyncio.wait(self._running, timeout=grace)
                for turn in pending:
                    turn.cancel()
                if pending:
                    _log.warning("turns_cancelled", count=len(pending))
                    await asyncio.wait(pending)

    async def _begin_turns(self) -> float:
        """Begins as many turns as there is room for.

        Returns:
            How many seconds there is nothing more to begin, unless something happens.
        """
        free = self._most_at_once - len(self._running)
        if free <= 0:
            return _LONGEST_WAIT
        async with self._database.connection() as connection:
            claims = await lifecycles.claim(connection, free, self._claim)
            # Before anything else can fail: nobody else takes what is claimed here.
            for claim in claims:
                turn = asyncio.create_task(self._take(claim))
                self._running.add(turn)
                turn.add_done_callback(self._ended)
            next_due = await lifecycles.time_to_next(connection)
        if len(claims) == free or next_due is None:
            return _LONGEST_WAIT
        # One that is due already is being claimed by another replica.
        return min(max(next_due.total_seconds(), _LEAST_WAIT), _LONGEST_WAIT)

    def _ended(self, turn: asyncio.Task[None]) -> None:
        self._running.discard(turn)
        self._loop.wake()

    async def _take(self, claim: Claim) -> None:
        call_context.bind(
            pipeline_id=claim.pipeline_id,
            request_id=call_context.new_request_id(),
            traceparent=call_context.new_traceparent(),
        )
        try:
            await self._turns.take(claim)
            self._faults.pop(claim.pipeline_id, None)
        except PipelineNotFound:
            self._faults.pop(claim.pipeline_id, None)
        except SyncInProgress as error:
            pause = min(error.retry_delay or _BUSY_PAUSE, _LONGEST_BUSY_PAUSE)
            await self._postpone(claim, pause)
        except (LeaseLost, StoreUnavailable) as error:
            _log.warning("turn_lost", error=str(error))
            await self._postpone(claim, _BUSY_PAUSE)
        except (Exception, asyncio.CancelledError):
            if is_cancelled():
                raise
            _log.exception("turn_failed")
            doublings = min(self._faults[claim.pipeline_id], _MOST_FAULT_DOUBLINGS)
            self._faults[claim.pipeline_id] += 1
            await self._postpone(claim, _FAULT_PAUSE * 2**doublings)

    async def _postpone(self, claim: Claim, delay: timedelta) -> None:
        async def postpone() -> None:
            async with self._database.connection() as connection:
                await lifecycles.postpone(connection, claim.pipeline_id, delay)

        await keep_trying(
            postpone,
            Loop.POSTPONEMENT,
            self._heartbeats,
            # Then the pipeline is due anyway.
            seconds=self._claim.total_seconds(),
            ended=self._ending,
            subject=claim.pipeline_id,
        )
