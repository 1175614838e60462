"""Cancellation of long-running work when the program shuts down."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class ShutdownRequested(Exception):
    """Raised by ``GracefulShutdown.cancel_on_shutdown``: its body was cancelled."""


class GracefulShutdown:
    """Request to end long-running work early, each piece with the results that it has."""

    def __init__(self) -> None:
        self._timeouts: set[asyncio.Timeout] = set()
        self._is_requested = False

    def request_shutdown(self) -> None:
        """Cancel every running body, and each later one at its first wait."""
        self._is_requested = True
        now = asyncio.get_running_loop().time()
        for timeout in self._timeouts:
            if not timeout.expired():
                timeout.reschedule(now)

    @asynccontextmanager
    async def cancel_on_shutdown(self) -> AsyncIterator[None]:
        """Run the body until it ends or a shutdown cancels it.

        Raises:
            ShutdownRequested: A shutdown cancelled the body.
        """
        timeout = asyncio.timeout(0 if self._is_requested else None)
        self._timeouts.add(timeout)
        try:
            async with timeout:
                yield
        except TimeoutError:
            if not timeout.expired():
                raise
            raise ShutdownRequested from None
        finally:
            self._timeouts.discard(timeout)
