"""Lifetime of a server program: one event loop, ended by a signal."""

import asyncio
import gc
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable

import structlog
import uvloop

_log = structlog.get_logger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Seconds that the loop may take to close after the program has ended.
_CLOSE_TIMEOUT = 5.0


class Termination:
    """SIGTERM and SIGINT as an event; further signals have no effect.

    SIGHUP, which asks other servers to reload their certificates, is ignored.
    """

    def __init__(self) -> None:
        """Catch the signals from now on; call it in the main thread, in a running loop."""
        self._requested = asyncio.Event()
        loop = asyncio.get_running_loop()
        for signal_number in _SIGNALS:
            loop.add_signal_handler(signal_number, self._requested.set)
        # Changed certificates are reloaded before the next connection in any case.
        loop.add_signal_handler(signal.SIGHUP, _log.info, "hangup_ignored")

    async def wait(self) -> None:
        """Wait for the request to end; call it when the program has started completely."""
        # All objects so far stay alive, so collections need not traverse them.
        gc.freeze()
        await self._requested.wait()


def run_program(program: Callable[[Termination], Awaitable[None]]) -> None:
    """Run a program to its end, in a loop of its own.

    Args:
        program: Receives the signals, caught before it begins, and waits for them once it has
            started.
    """

    async def main() -> None:
        await program(Termination())

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
        overdue = threading.Timer(_CLOSE_TIMEOUT, _exit)
        overdue.daemon = True
        overdue.start()
        # The closing loop restores the default handlers; a late signal must not spoil a clean exit.
    for signal_number in (*_SIGNALS, signal.SIGHUP):
        signal.signal(signal_number, signal.SIG_IGN)
    overdue.cancel()


def _exit() -> None:
    """End the process: a thread of gRPC waits forever for abandoned calls."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
