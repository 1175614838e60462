"""An event loop with virtual time, which jumps ahead when no task can run."""

import asyncio
import selectors
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

# Real seconds for sent data to arrive, and the most to wait for them before a jump that could make
# a request time out.
_ON_THE_WAY = 0.0001
_LONG_ON_THE_WAY = 0.02


class _Selector(selectors.DefaultSelector):
    """Advances the time instead of waiting, once no data are in flight.

    Sockets within this process are real, and data sent over the loopback interface arrive almost at
    once.
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
        # Otherwise a timer may be due slightly too early.
        self._clock_resolution = 1e-9

    def time(self) -> float:
        return self.selector.now


def run(
    monkeypatch: pytest.MonkeyPatch,
    main: Coroutine[Any, Any, Any],
    *,
    lateness: Callable[[], float] | None = None,
) -> float:
    """Run ``main`` and return its virtual seconds.

    Args:
        monkeypatch: Replaces ``time.monotonic`` with the virtual time.
        main: The coroutine to run.
        lateness: The seconds that the loop wakes up late, each time.
    """
    with asyncio.Runner(loop_factory=_Loop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, _Loop)
        if lateness is not None:
            loop.selector.lateness = lateness
        monkeypatch.setattr(time, "monotonic", loop.time)
        began = loop.time()
        runner.run(main)
        return loop.time() - began
