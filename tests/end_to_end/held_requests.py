"""Faults that begin in mid-sync, and requests that are never answered."""

import asyncio

from aiohttp import web

from tests.stripe_simulator.faults import Fault, Serve


def after(count: int, fault: Fault) -> Fault:
    """Lets so many requests through; all others meet the fault."""
    left = count

    async def later(request: web.Request, serve: Serve) -> web.StreamResponse:
        nonlocal left
        left -= 1
        return await (serve(request) if left >= 0 else fault(request, serve))

    return later


class HeldRequests:
    """A fault that answers nothing, and sees its callers leave.

    Attributes:
        begun: Set once a request is held.
        none: Set while none is: at first, and again when every caller has closed its connection.
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
    """A fault that answers late: once it is opened.

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
