"""Faults on request: what a test wants to go wrong, where, and how often."""

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

# Headers that an answer bears in the place of its own; None for one that it lacks.
OTHER_HEADERS = web.RequestKey("other_headers", dict[str, str | None])

Serve = Callable[[web.Request], Awaitable[web.StreamResponse]]
# Answers in the place of ``serve``, or calls it, earlier or later.
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
        """Lets the next requests fail.

        Args:
            fault: What happens to them.
            path: Which ones: a path, or a pattern such as ``/v1/issuing/*``.
            method: Which of them, e.g. ``POST``.
            times: How many of them; None for all from now on.
        """
        self._rules.append(_Rule(fault, path, method, times))

    def clear(self) -> None:
        """Lets all further requests through."""
        self._rules.clear()

    async def serve(self, request: web.Request, serve: Serve) -> web.StreamResponse:
        """Answers a request as the faults in force say."""
        for rule in reversed(self._rules):
            if rule.concerns(request):
                serve = partial(rule.serve, serve=serve)
        return await serve(request)


def refuse(refusal: Refusal) -> Fault:
    """Answers with an error body; see the functions of the ``errors`` module."""

    async def fault(_request: web.Request, _serve: Serve) -> web.StreamResponse:
        return refusal.response()

    return fault


def html(status: int = 502) -> Fault:
    """Answers with the page of a proxy in between, which is no JSON."""

    async def fault(_request: web.Request, _serve: Serve) -> web.StreamResponse:
        text = f"<html><head><title>{status} Bad Gateway</title></head><body></body></html>"
        return web.Response(status=status, text=text, content_type="text/html")

    return fault


def json_error(status: int, error: object) -> Fault:
    """Answers with an error in the form of Stripe's, as a gateway in between may."""

    async def fault(_request: web.Request, _serve: Serve) -> web.StreamResponse:
        return web.json_response({"error": error}, status=status)

    return fault


def other_body(body: bytes) -> Fault:
    """Answers 200 with another body."""

    async def fault(_request: web.Request, _serve: Serve) -> web.StreamResponse:
        return web.Response(body=body, content_type="application/json")

    return fault


def with_text(before: bytes, after: bytes) -> Fault:
    """Answers with one text in the body in the place of another."""

    async def fault(request: web.Request, serve: Serve) -> web.StreamResponse:
        answer = await serve(request)
        assert isinstance(answer, web.Response)
        assert isinstance(answer.body, bytes)
        return web.Response(
            body=answer.body.replace(before, after), content_type="application/json"
        )

    return fault


def connection_reset() -> Fault:
    """Resets the connection without an answer."""

    async def fault(request: web.Request, _serve: Serve) -> web.StreamResponse:
        assert request.transport is not None
        connection: socket.socket = request.transport.get_extra_info("socket")
        # To linger for no time makes closing send a reset instead of an orderly end.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        request.transport.abort()
        # The server's own word for a request whose client is gone.
        raise asyncio.CancelledError

    return fault


def truncated_body() -> Fault:
    """Promises the whole body and closes the connection after half of it."""

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
    """Answers nothing until the event is set."""

    async def fault(request: web.Request, serve: Serve) -> web.StreamResponse:
        await released.wait()
        return await serve(request)

    return fault


def latency(seconds: float) -> Fault:
    """Answers that much later."""
    return jittered_latency(seconds, seconds, seed=0)


def jittered_latency(shortest: float, longest: float, *, seed: int) -> Fault:
    """Answers later by a random time in seconds, so that pages finish out of order."""
    generator = random.Random(seed)  # noqa: S311 (repeatable on purpose, guards nothing)

    async def fault(request: web.Request, serve: Serve) -> web.StreamResponse:
        await asyncio.sleep(generator.uniform(shortest, longest))
        return await serve(request)

    return fault


def first_on_each_connection(fault: Fault) -> Fault:
    """Meets the fault with the first request of every connection, so with those of a new client."""
    connections: WeakSet[asyncio.BaseTransport] = WeakSet()

    async def first(request: web.Request, serve: Serve) -> web.StreamResponse:
        assert request.transport is not None
        if request.transport in connections:
            return await serve(request)
        connections.add(request.transport)
        return await fault(request, serve)

    return first


def after_read(act: Callable[[], object], *, seconds: float = 0.0) -> Fault:
    """Lets something happen once the data were read, and answers so many seconds after that."""

    async def fault(request: web.Request, serve: Serve) -> web.StreamResponse:
        response = await serve(request)
        act()
        await asyncio.sleep(seconds)
        return response

    return fault


def with_headers(headers: Mapping[str, str | None]) -> Fault:
    """Answers with other headers than usual; None leaves one out."""

    async def fault(request: web.Request, serve: Serve) -> web.StreamResponse:
        request[OTHER_HEADERS] = {**request.get(OTHER_HEADERS, {}), **headers}
        return await serve(request)

    return fault


def without_date() -> Fault:
    """Answers without the header ``Date``."""
    return with_headers({"Date": None})


def from_cache(age: int) -> Fault:
    """Answers as a cache would that has had the answer for so many seconds."""
    return with_headers({"Age": str(age)})


def stray_date(unix_seconds: float) -> Fault:
    """Answers with a ``Date`` that is not the clock's."""
    return with_headers({"Date": formatdate(unix_seconds, usegmt=True)})


def at_random(some: Sequence[Fault], *, share: float, seed: int) -> Fault:
    """Meets that share of the requests (0 to 1), each with one of the faults."""
    generator = random.Random(seed)  # noqa: S311 (repeatable on purpose, guards nothing)

    async def fault(request: web.Request, serve: Serve) -> web.StreamResponse:
        if generator.random() < share:
            return await generator.choice(some)(request, serve)
        return await serve(request)

    return fault
