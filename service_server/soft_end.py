"""Ends what would otherwise go on, when the program is to end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class EndedSoftly(Exception):
    """The body of ``SoftEnd.cutting`` was cut: the program is to end."""


class SoftEnd:
    """The wish that long work ends now, each piece with what it has."""

    def __init__(self) -> None:
        self._cut: set[asyncio.Timeout] = set()
        self._wished = False

    def wish(self) -> None:
        """Cuts every body, and those that begin from now on as soon as they wait."""
        self._wished = True
        now = asyncio.get_running_loop().time()
        for timeout in self._cut:
            if not timeout.expired():
                timeout.reschedule(now)

    @asynccontextmanager
    async def cutting(self) -> AsyncIterator[None]:
        """Runs the body until it ends, or is cut where it waits.

        Raises:
            EndedSoftly: It was cut.
        """
        timeout = asyncio.timeout(0 if self._wished else None)
        self._cut.add(timeout)
        try:
            async with timeout:
                yield
        except TimeoutError:
            if not timeout.expired():
                raise
            raise EndedSoftly from None
        finally:
            self._cut.discard(timeout)
