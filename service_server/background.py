"""Background loops that survive every exception."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import structlog

from pipesync_rpc.errors import RpcError
from service_server.errors import StoreUnavailable
from service_server.heartbeats import Heartbeat, Heartbeats, Loop

_log = structlog.get_logger(__name__)

# Do the work that is due and return for how many seconds there is none, unless the loop is woken.
Round = Callable[[], Awaitable[float]]


class Backoff:
    """Pauses between failed attempts: each twice as long as the one before, with jitter."""

    def __init__(self, first: float = 0.1, longest: float = 3.0) -> None:
        self._first = first
        self._longest = longest
        self._next = first

    def reset(self) -> None:
        """Start over, after a success."""
        self._next = self._first

    def pause(self) -> float:
        """Return the seconds to wait after one more failure."""
        pause, self._next = self._next, min(2 * self._next, self._longest)
        return pause * random.uniform(0.5, 1)  # noqa: S311 - spreads load


class BackgroundLoop:
    """Repeats a round of work until it is ended or cancelled.

    An exception of a round, whatever its class, is logged and counted, and the next round begins
    after a pause. The loop's heartbeat shows that it comes round.
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
        """Take the work.

        Args:
            loop: The loop's name in logs, metrics and health checks.
            do_round: Does one round.
            heartbeats: Where the loop's heartbeat is watched.
            backoff: The pauses after failures.
            subject: What the loop works on, for the log; empty where there is only one of it.
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
        """Begin the next round now; during a round, right after it.

        The pause after a failure is not cut short: many wakes must not make many failures.
        """
        self._woken.set()

    def end(self) -> None:
        """Begin no more rounds."""
        self._ended.set()
        self._woken.set()

    def beat(self, wait: float = 0.0) -> None:
        """Report from within a long round that it goes on, and may be silent for ``wait`` more."""
        if self._heartbeat is not None:
            self._heartbeat.beat(wait)

    @asynccontextmanager
    async def running(self, *, grace: float = 0.0, first_in: float = 0.0) -> AsyncIterator[None]:
        """Run for the length of the body.

        Args:
            grace: Seconds that the round under way has to end before it is cancelled.
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
            # Cleared before the round looks for work, so that a wake during it is kept.
            self._woken.clear()
            heartbeat.beat()
            try:
                wait = await self._do_round()
            except (Exception, asyncio.CancelledError) as error:
                # A round may also let out the cancellation of another task that it awaited.
                if is_cancelled():
                    raise
                pause, wait = self._backoff.pause(), 0.0
                heartbeat.beat(pause)
                _report(self._loop, error, pause, self._heartbeats, self._subject)
                await _wait_for(self._ended, pause)
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
    """Try ``work`` until it succeeds, against every exception.

    Args:
        work: What to do.
        loop: Its name in logs, metrics and health checks.
        heartbeats: Where it is watched meanwhile.
        seconds: After so many, its success would not matter any more.
        ended: Once set, no further attempt is made.
        subject: What it is about, for the log.
    """
    clock = asyncio.get_running_loop().time
    give_up_at = clock() + seconds
    backoff = Backoff()
    with heartbeats.watching(loop) as heartbeat:
        while True:
            try:
                return await work()
            except (Exception, asyncio.CancelledError) as error:
                if is_cancelled():
                    raise
                pause = backoff.pause()
                _report(loop, error, pause, heartbeats, subject)
            heartbeat.beat(pause)
            if ended.is_set() or clock() + pause >= give_up_at:
                return None
            await _wait_for(ended, pause)


def is_cancelled() -> bool:
    """Return whether the current task is asked to end."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _wait_for(event: asyncio.Event, seconds: float) -> None:
    # Also where there is nothing to wait for, others have their turn.
    await asyncio.sleep(0)
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


def _database_message(error: BaseException) -> str | None:
    return error.database_message or None if isinstance(error, StoreUnavailable) else None


def _report(
    loop: Loop, error: BaseException, pause: float, heartbeats: Heartbeats, subject: str
) -> None:
    heartbeats.count_failure(loop)
    # A log that cannot be written is no reason to end, either.
    with suppress(Exception):
        _log.warning(
            "loop_failed",
            loop=loop.value,
            subject=subject or None,
            error=str(error) or type(error).__name__,
            database_message=_database_message(error),
            retry_in_seconds=round(pause, 2),
            exc_info=None if isinstance(error, RpcError) else error,
        )
