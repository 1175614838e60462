"""Watchdog of the background loops."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager

import structlog

from service_server.background.heartbeats import Heartbeats, Loop
from service_server.background.loop import BackgroundLoop

_log = structlog.get_logger(__name__)

_INTERVAL = 1.0
# Timeout in seconds of the notification of health watches.
_REFRESH_TIMEOUT = 10.0


class Watchdog:
    """Logs when a loop stalls and when it recovers, and refreshes the service's health."""

    def __init__(self, heartbeats: Heartbeats, refresh: Callable[[], Awaitable[None]]) -> None:
        """Initialize without starting.

        Args:
            heartbeats: The heartbeats to check, which include the watchdog's own.
            refresh: Notifies the health watches.
        """
        self._heartbeats = heartbeats
        self._refresh = refresh
        self._stalled: set[Loop] = set()
        self._loop = BackgroundLoop(Loop.WATCHDOG, self.check, heartbeats)

    def watching(self) -> AbstractAsyncContextManager[None]:
        """Check every second during the body."""
        return self._loop.running()

    async def check(self) -> float:
        """Check once, and return the seconds until the next check."""
        found = set(self._heartbeats.stalled_loops())
        known, self._stalled = self._stalled, found
        for loop in sorted(found - known):
            _log.error("loop_stands_still", loop=loop.value)
        for loop in sorted(known - found):
            _log.info("loop_comes_round_again", loop=loop.value)
        async with asyncio.timeout(_REFRESH_TIMEOUT):
            await self._refresh()
        return _INTERVAL
