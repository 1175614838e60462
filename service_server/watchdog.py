"""Watchdog of the background loops: reports those that stand still."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager

import structlog

from service_server.background import BackgroundLoop
from service_server.heartbeats import Heartbeats, Loop

_log = structlog.get_logger(__name__)

_INTERVAL = 1.0
# Seconds that health watches may take to be told.
_REFRESH_TIMEOUT = 10.0


class Watchdog:
    """Logs each loop that stands still, and that comes round again, and refreshes the health."""

    def __init__(self, heartbeats: Heartbeats, refresh: Callable[[], Awaitable[None]]) -> None:
        """Take its subject.

        Args:
            heartbeats: Of the loops to watch, its own among them.
            refresh: Tells health watches how the loops are now.
        """
        self._heartbeats = heartbeats
        self._refresh = refresh
        self._standing_still: set[Loop] = set()
        self._loop = BackgroundLoop(Loop.WATCHDOG, self.look, heartbeats)

    def watching(self) -> AbstractAsyncContextManager[None]:
        """Look every second for the length of the body."""
        return self._loop.running()

    async def look(self) -> float:
        """Look once, and return the seconds until the next look."""
        found = set(self._heartbeats.standing_still())
        known, self._standing_still = self._standing_still, found
        for loop in sorted(found - known):
            _log.error("loop_stands_still", loop=loop.value)
        for loop in sorted(known - found):
            _log.info("loop_comes_round_again", loop=loop.value)
        async with asyncio.timeout(_REFRESH_TIMEOUT):
            await self._refresh()
        return _INTERVAL
