"""Loop that runs the due work of pipelines, with a bounded number of pieces under way at once."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from functools import partial

import structlog

from pipesync_rpc import context as call_context
from service_server.background.fair_shares import FairShares, IdFilter
from service_server.background.heartbeats import Heartbeats, Loop
from service_server.background.loop import BackgroundLoop, is_cancelled

_log = structlog.get_logger(__name__)

# Seconds until the next look while no more work may begin: the end of a piece wakes the loop.
_BUSY_WAIT = 10.0

# Starts due work by ``DueWork.start``, at most the given number of pieces and for pipelines of the
# filter, and returns the seconds until more is due unless the loop is woken.
StartDue = Callable[[int, IdFilter], Awaitable[float]]
# Decides when work that raised is due again.
Postpone = Callable[[BaseException], Awaitable[None]]


class DueWork:
    """Starts work that is due, and survives every exception of it.

    The loop looks for work when it is woken, when more is due, and when a piece has ended.
    """

    def __init__(
        self, loop: Loop, start_due: StartDue, heartbeats: Heartbeats, *, shares: FairShares
    ) -> None:
        """Initialize without starting.

        Args:
            loop: The loop's name in logs, metrics and health checks.
            start_due: Starts the work that is due.
            heartbeats: Watches the loop's heartbeat.
            shares: The places for pieces under way at once.
        """
        self._start_due = start_due
        self._shares = shares
        self._loop = BackgroundLoop(loop, self._do_round, heartbeats)
        # The pipeline of each piece. A claim may lapse during its work, so that a pipeline has two.
        self._pieces: dict[asyncio.Task[None], str] = {}

    @property
    def under_way(self) -> Collection[str]:
        """The pipelines whose work is under way."""
        return set(self._pieces.values())

    def wake(self, _: str | None = None) -> None:
        """Look for due work soon. The payload of a notification is not needed."""
        self._loop.wake()

    def end(self) -> None:
        """Start no more work."""
        self._loop.end()

    def start(
        self, pipeline_id: str, run: Callable[[], Awaitable[None]], postpone: Postpone
    ) -> None:
        """Start the work of a pipeline.

        Args:
            pipeline_id: The pipeline.
            run: Does the work.
            postpone: Handles the exception if ``run`` raises one.
        """
        team = self._shares.take(pipeline_id)
        piece = asyncio.create_task(self._run(pipeline_id, run, postpone))
        self._pieces[piece] = pipeline_id
        piece.add_done_callback(partial(self._ended, team))

    def has_place_for(self, pipeline_id: str) -> bool:
        """Return whether there is a place for a pipeline's work."""
        return self._shares.has_place_for(pipeline_id)

    @asynccontextmanager
    async def running(self, *, grace: float, start_grace: float = 0.0) -> AsyncIterator[None]:
        """Run during the body, then wait for the work under way.

        Args:
            grace: Seconds until that work is cancelled.
            start_grace: Seconds until a look for work that is under way is cancelled.
        """
        try:
            async with self._loop.running(grace=start_grace):
                yield
        finally:
            self.end()
            if self._pieces:
                _, pending = await asyncio.wait(self._pieces, timeout=grace)
                for piece in pending:
                    piece.cancel()
                if pending:
                    _log.warning("turns_cancelled", count=len(pending))
                    await asyncio.wait(pending)

    async def _do_round(self) -> float:
        places, among = self._shares.next_places()
        return await self._start_due(places, among) if places else _BUSY_WAIT

    async def _run(
        self, pipeline_id: str, run: Callable[[], Awaitable[None]], postpone: Postpone
    ) -> None:
        call_context.bind(
            pipeline_id=pipeline_id,
            request_id=call_context.new_request_id(),
            traceparent=call_context.new_traceparent(),
        )
        try:
            await run()
        except (Exception, asyncio.CancelledError) as error:
            # Work may also raise the cancellation of another task that it awaited.
            if is_cancelled():
                raise
            await postpone(error)

    def _ended(self, team: str, piece: asyncio.Task[None]) -> None:
        del self._pieces[piece]
        self._shares.give_back(team)
        self._loop.wake()
