"""Faults on request: a test chooses the kind, the requests and the number of times."""

import asyncio
import random
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping, Sequence
from email.utils import formatdate
from fnmatch import fnmatchcase
from functools import partial
from weakref import WeakSet

from aiohttp import web

from tests.stripe_simulator.errors import Refusal

# Headers that replace those of an answer; None removes one.
OTHER_HEADERS = web.RequestKey("other_headers", dict[str, str | None])

Serve = Callable[[web.Request], Awaitable[web.StreamResponse]]
# Answers instead of ``serve``, or calls ``serve`` earlier or later.
Fault = Callable[[web.Request, Serve], Awaitable[web.StreamResponse]]


class _Rule:
    def __init__(self, fault: Fault, path: str, method: str, times: int | None) -> None:
        self._path = path
        self._method = method
        self._fault = fault
        self._left = times

    def concerns(self, request: web.Request) -> bool:
        return self._method in ("*", request.method) and fnmatchcase(request.path, self._path)

    async def serve(self, request: web.Request, serve: Serve) -> web.StreamResponse:
        if self._left == 0:
            return await serve(request)
        if self._left is not None:
            self._left -= 1
        return await self._fault(request, serve)


class Faults:
    """The faults in force. Those that let a request through combine, the first added outermost."""

    def __init__(self) -> None:
        self._rules: list[_Rule] = []

    def add(
        self, fault: Fault, *, path: str = "*", method: str = "*", times: int | None = 1
    ) -> None:
        """Make the next requests fail.

        Args:
            fault: Fault to apply.
            path: Path of the requests, or a pattern such as ``/v1/issuing/*``.
            method: Method of the requests, e.g. ``POST``.
            times: Number of requests to fail; None for all from now on.
        """
        self._rules.append(_Rule(fault, path, method, times))

    def clear(self) -> None:
        """Let all further requests through."""
        self._rules.clear()

    async def serve(self, request: web.Request, serve: Serve) -> web.StreamResponse:
        """Answer a request with the faults in force."""
        for rule in reversed(self._rules):
            if rule.concerns(request):
                serve = partial(rule.serve, serve=serve)
        return await serve(request)


def refuse(refusal: Refusal) -> Fault:
    """Answer with an error body; see the functions of the ``errors`` module."""

    async def fault(_request: web.Request, _serve: Serve) -> web.StreamResponse:
        return refusal.response()

    return fault


def html(status: int = 502) -> Fault:
    """Answer with the HTML page of an intermediate proxy, which is not JSON."""

    async def fault(_request: web.Request, _serve: Serve) -> web.StreamResponse:
        text = f"<html><head><title>{status} Bad Gateway</title></head><body></body></html>"
        return web.Response(status=status, text=text, content_type="text/html")

    return fault


def json_error(status: int, error: object) -> Fault:
    """Answer with an error in Stripe's format, as an intermediate gateway may."""

    async def fault(_request: web.Request, _serve: Serve) -> web.StreamResponse:
        return web.json_response({"error": error}, status=status)

    return fault


def other_body(body: bytes) -> Fault:
    """Answer 200 with another body."""

    async def fault(_request: web.Request, _serve: Serve) -> web.StreamResponse:
        return web.Response(body=body, content_type="application/json")

    return fault


def with_text(before: bytes, after: bytes) -> Fault:
    """Answer with one text in the body replaced by another."""

    async def fault(request: web.Request, serve: Serve) -> web.StreamResponse:
        answer = await serve(request)
        assert isinstance(answer, web.Response)
        assert isinstance(answer.body, bytes)
        return web.Response(
            body=answer.body.replace(before, after), content_type="application/json"
        )

    return fault


def connection_reset() -> Fault:
    """Reset the connection without an answer."""

    async def fault(request: web.Request, _serve: Serve) -> web.StreamResponse:
        assert request.transport is not None
        connection: socket.socket = request.transport.get_extra_info("socket")
        # A linger time of zero makes closing send a reset instead of an orderly end.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        request.transport.abort()
        # The server raises the same for a request whose client is gone.
        raise asyncio.CancelledError

    return fault


def truncated_body() -> Fault:
    """Promise the whole body, and close the connection after half of it."""

    async def fault(request: web.Request, serve: Serve) -> web.StreamResponse:
        whole = await serve(request)
        assert isinstance(whole, web.Response)
        assert isinstance(whole.body, bytes)
        cut = web.StreamResponse(status=whole.status, headers=whole.headers)
        cut.content_length = len(whole.body)
        await cut.prepare(request)
        await cut.write(whole.body[: len(whole.body) // 2])
        assert request.transport is not None
        request.transport.close()
        return cut

    return fault


def stall(released: asyncio.Event) -> Fault:
    """Answer nothing until the event is set."""

    async def fault(request: web.Request, serve: Serve) -> web.StreamResponse:
        await released.wait()
        return await serve(request)

    return fault


def latency(seconds: float) -> Fault:
    """Answer after this many seconds."""
    return jittered_latency(seconds, seconds, seed=0)


def jittered_latency(shortest: float, longest: float, *, seed: int) -> Fault:
    """Answer after a random delay in seconds, so that pages finish out of order."""
    generator = random.Random(seed)  # noqa: S311 (repeatable on purpose, guards nothing)

    async def fault(request: web.Request, serve: Serve) -> web.StreamResponse:
        await asyncio.sleep(generator.uniform(shortest, longest))
        return await serve(request)

    return fault


def first_on_each_connection(fault: Fault) -> Fault:
    """Apply the fault to the first request of every connection, hence to those of a new client."""
    connections: WeakSet[asyncio.BaseTransport] = WeakSet()

    async def first(request: web.Request, serve: Serve) -> web.StreamResponse:
        assert request.transport is not None
        if request.transport in connections:
            return await serve(request)
        connections.add(request.transport)
        return await fault(request, serve)

    return first


def after_read(act: Callable[[], object], *, seconds: float = 0.0) -> Fault:
    """Call ``act`` after the data were read, and answer ``seconds`` later."""

    async def fault(request: web.Request, serve: Serve) -> web.StreamResponse:
        response = await serve(request)
        act()
        await asyncio.sleep(seconds)
        return response

    return fault


def with_headers(headers: Mapping[str, str | None]) -> Fault:
    """Answer with other headers than usual; None removes one."""

    async def fault(request: web.Request, serve: Serve) -> web.StreamResponse:
        request[OTHER_HEADERS] = {**request.get(OTHER_HEADERS, {}), **headers}
        return await serve(request)

    return fault


def without_date() -> Fault:
    """Answer without the ``Date`` header."""
    return with_headers({"Date": None})


def from_cache(age: int) -> Fault:
    """Answer as a cache does that has held the answer for ``age`` seconds."""
    return with_headers({"Age": str(age)})


def stray_date(unix_seconds: float) -> Fault:
    """Answer with a ``Date`` that differs from the clock's."""
    return with_headers({"Date": formatdate(unix_seconds, usegmt=True)})


def at_random(some: Sequence[Fault], *, share: float, seed: int) -> Fault:
    """Apply one of the faults to each request of a random share (0 to 1)."""
    generator = random.Random(seed)  # noqa: S311 (repeatable on purpose, guards nothing)

    async def fault(request: web.Request, serve: Serve) -> web.StreamResponse:
        if generator.random() < share:
            return await generator.choice(some)(request, serve)
        return await serve(request)

    return fault
