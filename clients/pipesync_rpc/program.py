"""A server program's life: one event loop, ended by a signal."""

import asyncio
import gc
import signal
from collections.abc import Awaitable, Callable

import uvloop

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Termination:
    """SIGTERM and SIGINT as something to wait for; the second one changes nothing."""

    def __init__(self) -> None:
        """Catches the signals from now on; for the main thread, in a running loop."""
        self._asked = asyncio.Event()
        loop = asyncio.get_running_loop()
        for signal_number in _SIGNALS:
            loop.add_signal_handler(signal_number, self._asked.set)

    async def wait(self) -> None:
        """Returns once the program was asked to end; to be called when all of it is up."""
        # That stays, and need not be gone through by each collection.
        gc.freeze()
        await self._asked.wait()


def run_program(program: Callable[[Termination], Awaitable[None]]) -> None:
    """Runs ``program`` in a loop of its own, to its end.

    Args:
        program: Is given the signals, caught before it begins: it waits for them when it is up.
    """

    async def main() -> None:
        await program(Termination())

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
        # The loop gives its signals back when it closes; a late one must not spoil a clean exit.
    for signal_number in _SIGNALS:
        signal.signal(signal_number, signal.SIG_IGN)
