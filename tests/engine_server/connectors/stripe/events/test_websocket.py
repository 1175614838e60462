"""Connections to the Stripe CLI's WebSocket; their events are tested end to end."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from aiohttp import web

from engine_server.connectors.stripe.api.stripe_api import StripeApi
from engine_server.connectors.stripe.events.ingress.event_queue import EventQueue
from engine_server.connectors.stripe.events.ingress.websocket import CliWebSocket
from tests.end_to_end.listening import QUICK_INTERVALS
from tests.engine_server.connectors.stripe.reading import QUICK, config_for
from tests.loopback_proxy import LoopbackProxy
from tests.stripe_simulator import faults
from tests.stripe_simulator.cli_sessions import SESSIONS_PATH, SOCKET_PATH
from tests.stripe_simulator.cli_sockets import SUBPROTOCOL
from tests.stripe_simulator.simulator import StripeSimulator


@asynccontextmanager
async def connected(simulator: StripeSimulator) -> AsyncIterator[EventQueue]:
    """Yield the queue that receives the events of a connection."""
    config, queue = config_for(simulator, websocket=True), EventQueue(QUICK_INTERVALS)
    async with (
        StripeApi(QUICK).client(config) as client,
        CliWebSocket(client, config, queue, QUICK_INTERVALS),
    ):
        yield queue
    await simulator.cli_sockets.connected(0)


async def acknowledged(simulator: StripeSimulator, queue: EventQueue) -> None:
    """Send one event, and acknowledge it."""
    simulator.create("customers")
    [queued] = await queue.take(1, at_most=None)
    queue.resolve(queued, committed=True)
    await simulator.cli_sessions.settled()


async def test_it_identifies_itself_and_uses_the_environments_proxy(
    simulator: StripeSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    async with LoopbackProxy(credentials="me:secret") as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://me:secret@127.0.0.1:{proxy.port}")
        async with connected(simulator) as queue:
            await acknowledged(simulator, queue)
    assert [head.split(" ", 2)[:2] for head in proxy.heads] == [
        ["POST", f"{simulator.base_url}{SESSIONS_PATH}"],
        ["GET", f"{simulator.base_url}{SOCKET_PATH}?websocket_feature=webhook-payloads"],
    ]
    for path in (SESSIONS_PATH, SOCKET_PATH):
        [request] = simulator.requests.of(path)
        assert request.headers["user-agent"] == "pipesync"
        assert request.headers["x-stripe-client-user-agent"] == '{"name":"pipesync"}'


async def test_an_api_without_tls_gets_a_websocket_without_tls(simulator: StripeSimulator) -> None:
    async def with_tls(request: web.Request, serve: faults.Serve) -> web.StreamResponse:
        response = await serve(request)
        assert isinstance(response, web.Response)
        assert isinstance(response.body, bytes)
        body = response.body.replace(b"ws://", b"wss://")
        return web.Response(body=body, content_type="application/json")

    simulator.faults.add(with_tls, path=SESSIONS_PATH)
    async with connected(simulator) as queue:
        await acknowledged(simulator, queue)


async def test_a_connection_lost_at_once_is_not_renewed_at_once(
    simulator: StripeSimulator,
) -> None:
    async def closed(request: web.Request, _: faults.Serve) -> web.StreamResponse:
        socket = web.WebSocketResponse(protocols=(SUBPROTOCOL,))
        await socket.prepare(request)
        await socket.close()
        return socket

    simulator.faults.add(closed, path=SOCKET_PATH, times=4)
    began = time.monotonic()
    async with connected(simulator) as queue:
        await acknowledged(simulator, queue)
    assert time.monotonic() - began >= 4 * QUICK_INTERVALS.connect_interval


async def test_a_ping_is_answered(simulator: StripeSimulator) -> None:
    answered = asyncio.Event()

    async def pings(request: web.Request, _: faults.Serve) -> web.StreamResponse:
        socket = web.WebSocketResponse(protocols=(SUBPROTOCOL,), heartbeat=0.1)
        await socket.prepare(request)
        # It closes itself if a ping is not answered.
        async with asyncio.timeout(0.5):
            async for _message in socket:
                raise AssertionError("nothing is to be said")
        return socket

    async def noted(request: web.Request, serve: faults.Serve) -> web.StreamResponse:
        try:
            return await pings(request, serve)
        except TimeoutError:
            answered.set()
            raise

    simulator.faults.add(noted, path=SOCKET_PATH)
    intervals = replace(QUICK_INTERVALS, ping_interval=10)
    config, queue = config_for(simulator, websocket=True), EventQueue(intervals)
    async with (
        StripeApi(QUICK).client(config) as client,
        CliWebSocket(client, config, queue, intervals),
    ):
        await answered.wait()
