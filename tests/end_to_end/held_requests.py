"""Faults that begin in mid-sync, and requests that are never answered."""

import asyncio

from aiohttp import web

from tests.stripe_simulator.faults import Fault, Serve


def after(count: int, fault: Fault) -> Fault:
    """Return a fault that lets the first ``count`` requests through and meets all others."""
    left = count

    async def later(request: web.Request, serve: Serve) -> web.StreamResponse:
        nonlocal left
        left -= 1
        return await (serve(request) if left >= 0 else fault(request, serve))

    return later


class HeldRequests:
    """Fault that never answers, and notices when its callers leave.

    Attributes:
        begun: Set once a request is held.
        none: Set while no request is held: at first, and again when every caller has closed its
            connection.
    """

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.none = asyncio.Event()
        self.none.set()
        self._count = 0

    async def __call__(self, _request: web.Request, _serve: Serve) -> web.StreamResponse:
        self._count += 1
        self.begun.set()
        self.none.clear()
        try:
            await asyncio.Event().wait()
        finally:
            self._count -= 1
            if not self._count:
                self.none.set()
        raise AssertionError("an event that nobody sets was set")


class Gate:
    """Fault that answers once it is opened.

    Attributes:
        reached: Set once a request waits.
        open: Set by a test to let all requests through.
    """

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.open = asyncio.Event()

    async def __call__(self, request: web.Request, serve: Serve) -> web.StreamResponse:
        self.reached.set()
        await self.open.wait()
        return await serve(request)
