"""Has every pipeline that is due take its turn, so many at once; any replica can do so."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

import structlog

from pipesync_rpc import context as call_context
from service_server.errors import LeaseLost, PipelineNotFound, StoreUnavailable, SyncInProgress
from service_server.lifecycle.turns import Turns
from service_server.store import lifecycles
from service_server.store.database import Database
from service_server.store.lifecycles import Claim

_log = structlog.get_logger(__name__)

# Looks at least this often, in seconds: a notification may get lost on its way.
_LONGEST_WAIT = 10.0
# When to look again after somebody else was found at it.
_BUSY_PAUSE = timedelta(seconds=1)
_LONGEST_BUSY_PAUSE = timedelta(seconds=3)
# When to try a turn again that met a fault of the service's own.
_FAULT_PAUSE = timedelta(minutes=1)
# How long to wait for a database that is away, in seconds.
_STORE_PAUSE = 0.5


class Runner:
    """One scheduler for all pipelines; which of them are due stands in Postgres."""

    def __init__(
        self, *, database: Database, turns: Turns, most_at_once: int, claim: timedelta
    ) -> None:
        """Takes the settings.

        Args:
            database: Where it stands which pipelines are due.
            turns: Takes them.
            most_at_once: How many turns are taken at the same time.
            claim: After this, a turn whose end nobody stored is taken by another replica.
        """
        self._database = database
        self._turns = turns
        self._most_at_once = most_at_once
        self._claim = claim
        self._running: set[asyncio.Task[None]] = set()
        self._something_due = asyncio.Event()
        self._ending = False

    def look(self, _: str | None = None) -> None:
        """Has the runner look for what is due now."""
        self._something_due.set()

    def end_softly(self) -> None:
        """Begins no more turns; those under way end by themselves, at their next checkpoint."""
        self._ending = True
        self._something_due.set()

    @asynccontextmanager
    async def running(self, grace: float) -> AsyncIterator[None]:
        """Runs for the length of the body, then waits for the turns that are under way.

        Args:
            grace: After so many seconds those are cancelled.
        """
        scheduling = asyncio.create_task(self._schedule())
        try:
            yield
        finally:
            self.end_softly()
            await scheduling
            if self._running:
                _, pending = await asyncio.wait(self._running, timeout=grace)
                for turn in pending:
                    turn.cancel()
                if pending:
                    _log.warning("turns_cancelled", count=len(pending))
                    await asyncio.wait(pending)

    async def _schedule(self) -> None:
        while not self._ending:
            self._something_due.clear()
            try:
                wait = await self._begin_turns()
            except StoreUnavailable as error:
                _log.warning("pipelines_not_looked_for", error=str(error))
                wait = _STORE_PAUSE
            with suppress(TimeoutError):
                await asyncio.wait_for(self._something_due.wait(), wait)

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
            next_due = await lifecycles.time_to_next(connection)
        for claim in claims:
            turn = asyncio.create_task(self._take(claim))
            self._running.add(turn)
            turn.add_done_callback(self._ended)
        if len(claims) == free or next_due is None:
            return _LONGEST_WAIT
        return min(next_due.total_seconds(), _LONGEST_WAIT)

    def _ended(self, turn: asyncio.Task[None]) -> None:
        self._running.discard(turn)
        self._something_due.set()

    async def _take(self, claim: Claim) -> None:
        call_context.bind(
            pipeline_id=claim.pipeline_id,
            request_id=call_context.new_request_id(),
            traceparent=call_context.new_traceparent(),
        )
        try:
            await self._turns.take(claim)
        except PipelineNotFound:
            pass
        except SyncInProgress as error:
            pause = min(error.retry_delay or _BUSY_PAUSE, _LONGEST_BUSY_PAUSE)
            await self._postpone(claim, pause)
        except (LeaseLost, StoreUnavailable) as error:
            _log.warning("turn_lost", error=str(error))
            await self._postpone(claim, _BUSY_PAUSE)
        except Exception:
            _log.exception("turn_failed")
            await self._postpone(claim, _FAULT_PAUSE)

    async def _postpone(self, claim: Claim, delay: timedelta) -> None:
        while True:
            try:
                async with self._database.connection() as connection:
                    await lifecycles.postpone(connection, claim.pipeline_id, delay)
            except StoreUnavailable:
                if self._ending:
                    return
                await asyncio.sleep(_STORE_PAUSE)
            else:
                return
