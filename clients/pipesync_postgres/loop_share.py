"""The share of the event loop that all connections have for parsing answers."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from weakref import WeakKeyDictionary

# Seconds between two turns of the loop. Other work of the process needs several turns to answer.
_SECONDS = 0.002


class LoopShare:
    """Lets connections parse for a few milliseconds, and then one after the other, turn by turn."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._used = 0.0
        self._waiting = deque[Callable[[], None]]()
        self._is_scheduled = False

    def is_used_up(self) -> bool:
        """Return whether a connection has to wait for its turn."""
        return bool(self._waiting) or self._used >= _SECONDS

    def use(self, work: Callable[[], None]) -> None:
        """Do ``work`` now, and charge its time."""
        began = time.perf_counter()
        try:
            work()
        finally:
            self._used += time.perf_counter() - began

    def wait(self, work: Callable[[], None]) -> None:
        """Do ``work`` in a later turn of the loop, after those that wait already."""
        self._waiting.append(work)
        self._schedule()

    def _schedule(self) -> None:
        if self._waiting and not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._take_turn)

    def _take_turn(self) -> None:
        self._is_scheduled = False
        self._used = 0.0
        try:
            while self._waiting and self._used < _SECONDS:
                self.use(self._waiting.popleft())
        finally:
            self._schedule()


_SHARES = WeakKeyDictionary[asyncio.AbstractEventLoop, LoopShare]()


def loop_share() -> LoopShare:
    """Return the share of the running loop."""
    loop = asyncio.get_running_loop()
    if loop not in _SHARES:
        _SHARES[loop] = LoopShare(loop)
    return _SHARES[loop]
