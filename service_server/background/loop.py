"""Background loops that survive every exception."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import structlog

from pipesync_rpc.errors import RpcError
from service_server.background.heartbeats import Heartbeat, Heartbeats, Loop
from service_server.errors import StoreUnavailable

_log = structlog.get_logger(__name__)

# Does the due work, and returns the seconds until more is due unless the loop is woken.
Round = Callable[[], Awaitable[float]]


class Backoff:
    """Delays between failed attempts, each twice as long as the one before, with jitter."""

    def __init__(self, first: float = 0.1, maximum: float = 3.0) -> None:
        self._first = first
        self._maximum = maximum
        self._next = first

    def reset(self) -> None:
        """Begin with the first delay again, after a success."""
        self._next = self._first

    def next_delay(self) -> float:
        """Return the seconds to wait after another failure."""
        delay, self._next = self._next, min(2 * self._next, self._maximum)
        return delay * random.uniform(0.5, 1)  # noqa: S311 - spreads load


class BackgroundLoop:
    """Repeats a round of work until it is ended or cancelled.

    Every exception of a round is logged and counted, and the next round begins after a delay. The
    loop's heartbeat shows that rounds go on.
    """

    def __init__(
        self,
        loop: Loop,
        do_round: Round,
        heartbeats: Heartbeats,
        *,
        backoff: Backoff | None = None,
        subject: str = "",
    ) -> None:
        """Initialize without starting.

        Args:
            loop: The loop's name in logs, metrics and health checks.
            do_round: Does one round.
            heartbeats: Watches the loop's heartbeat.
            backoff: The delays after failures.
            subject: The object that the loop works on, for the log; empty if there is only one.
        """
        self._loop = loop
        self._do_round = do_round
        self._heartbeats = heartbeats
        self._backoff = backoff or Backoff()
        self._subject = subject
        self._heartbeat: Heartbeat | None = None
        self._woken = asyncio.Event()
        self._ended = asyncio.Event()

    def wake(self) -> None:
        """Begin the next round now, or right after the round under way.

        This does not shorten the delay after a failure: frequent wakes must not multiply failures.
        """
        self._woken.set()

    def end(self) -> None:
        """Begin no more rounds."""
        self._ended.set()
        self._woken.set()

    def beat(self, wait: float = 0.0) -> None:
        """Record from within a long round that it goes on, and may take ``wait`` seconds longer."""
        if self._heartbeat is not None:
            self._heartbeat.beat(wait)

    @asynccontextmanager
    async def running(self, *, grace: float = 0.0, first_in: float = 0.0) -> AsyncIterator[None]:
        """Run during the body.

        Args:
            grace: Seconds for the round under way to end before it is cancelled.
            first_in: Seconds until the first round, unless the loop is woken.
        """
        with self._heartbeats.watching(self._loop) as heartbeat:
            self._heartbeat = heartbeat
            task = asyncio.create_task(self._run(heartbeat, first_in))
            try:
                yield
            finally:
                self.end()
                if grace and not task.done():
                    await asyncio.wait([task], timeout=grace)
                task.cancel()
                await asyncio.wait([task])

    async def _run(self, heartbeat: Heartbeat, wait: float) -> None:
        while True:
            heartbeat.beat(wait)
            await _wait_for(self._woken, wait)
            if self._ended.is_set():
                self._heartbeats.dismiss(heartbeat)
                return
            # Cleared before the round looks for work, so that a wake during the round is not lost.
            self._woken.clear()
            heartbeat.beat()
            try:
                wait = await self._do_round()
            except (Exception, asyncio.CancelledError) as error:
                # A round may also raise the cancellation of another task that it awaited.
                if is_cancelled():
                    raise
                delay, wait = self._backoff.next_delay(), 0.0
                heartbeat.beat(delay)
                _report(self._loop, error, delay, self._heartbeats, self._subject)
                await _wait_for(self._ended, delay)
            else:
                self._backoff.reset()


async def keep_trying(
    work: Callable[[], Awaitable[None]],
    loop: Loop,
    heartbeats: Heartbeats,
    *,
    seconds: float,
    ended: asyncio.Event,
    subject: str = "",
) -> None:
    """Retry ``work`` after every exception until it succeeds.

    Args:
        work: Does the work.
        loop: Its name in logs, metrics and health checks.
        heartbeats: Watches its heartbeat meanwhile.
        seconds: Time after which success would no longer matter.
        ended: Once set, no further attempt is made.
        subject: The object of the work, for the log.
    """
    clock = asyncio.get_running_loop().time
    deadline = clock() + seconds
    backoff = Backoff()
    with heartbeats.watching(loop) as heartbeat:
        while True:
            try:
                return await work()
            except (Exception, asyncio.CancelledError) as error:
                if is_cancelled():
                    raise
                delay = backoff.next_delay()
                _report(loop, error, delay, heartbeats, subject)
            heartbeat.beat(delay)
            if ended.is_set() or clock() + delay >= deadline:
                return None
            await _wait_for(ended, delay)


def is_cancelled() -> bool:
    """Return whether cancellation of the current task was requested."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _wait_for(event: asyncio.Event, seconds: float) -> None:
    # Other tasks get to run even if there is nothing to wait for.
    await asyncio.sleep(0)
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


def _database_message(error: BaseException) -> str | None:
    return error.database_message or None if isinstance(error, StoreUnavailable) else None


def _report(
    loop: Loop, error: BaseException, delay: float, heartbeats: Heartbeats, subject: str
) -> None:
    heartbeats.count_failure(loop)
    # A loop also survives a failure of the log.
    with suppress(Exception):
        _log.warning(
            "loop_failed",
            loop=loop.value,
            subject=subject or None,
            error=str(error) or type(error).__name__,
            database_message=_database_message(error),
            retry_in_seconds=round(delay, 2),
            exc_info=None if isinstance(error, RpcError) else error,
        )
