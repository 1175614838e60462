"""An event loop whose clock stands still while anything can run, and then jumps: nothing waits."""

import asyncio
import selectors
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from engine_server.connectors.stripe import client
from engine_server.connectors.stripe.clock import CLOCKS
from engine_server.connectors.stripe.limiters import Limiters

# Real seconds that what was sent may take to arrive, and the most that are waited for it where a
# jump would be so long that a request could time out.
_ON_THE_WAY = 0.0001
_LONG_ON_THE_WAY = 0.02


class _Selector(selectors.DefaultSelector):
    """Passes the time instead of waiting, once nothing is left on the way.

    Sockets within this process are real, and on the loopback interface what one end sends is there
    for the other at once, or almost.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.lateness: Callable[[], float] = lambda: 0.0

    def select(self, timeout: float | None = None) -> Any:
        events = super().select(0)
        if events or timeout == 0:
            return events
        if timeout is None:
            # Only a thread can go on now.
            return super().select(None)
        # The loop's own socket pair is always there.
        if len(self.get_map()) > 1:
            time.sleep(_ON_THE_WAY)
            wait = min(timeout / 100, _LONG_ON_THE_WAY)
            events = super().select(wait if wait >= _LONG_ON_THE_WAY / 10 else 0)
        if not events:
            self.now += timeout + self.lateness()
        return events


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.selector = _Selector()
        super().__init__(self.selector)
        # Else a timer may come due a little before its time.
        self._clock_resolution = 1e-9

    def time(self) -> float:
        return self.selector.now


def run(
    monkeypatch: pytest.MonkeyPatch,
    main: Coroutine[Any, Any, Any],
    *,
    lateness: Callable[[], float] | None = None,
) -> float:
    """Runs ``main`` and answers how many virtual seconds it took.

    Args:
        monkeypatch: Puts the virtual time in the place of ``time.monotonic``.
        main: What to run.
        lateness: How many seconds late the loop wakes up, each time.
    """
    with asyncio.Runner(loop_factory=_Loop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, _Loop)
        if lateness is not None:
            loop.selector.lateness = lateness
        monkeypatch.setattr(time, "monotonic", loop.time)
        # What was paced by the one clock would wait for ever by the other.
        monkeypatch.setattr(client, "LIMITERS", Limiters())
        CLOCKS.forget()
        began = loop.time()
        try:
            runner.run(main)
            return loop.time() - began
        finally:
            # Nor would it tell the time.
            CLOCKS.forget()
