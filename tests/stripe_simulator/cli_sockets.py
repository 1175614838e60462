"""WebSockets of the Stripe CLI's sessions.

Rules: https://github.com/stripe/stripe-cli (pkg/websocket/client.go).
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from aiohttp import WSMsgType, web

from tests.stripe_simulator import errors
from tests.stripe_simulator.cli_sessions import CliSession, CliSessions

SUBPROTOCOL = "stripecli-devproxy-v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Connection:
    request: web.Request
    socket: web.WebSocketResponse
    sending: asyncio.Task[None]


class CliSockets:
    """The open connections, at most one for each session."""

    def __init__(self, sessions: CliSessions) -> None:
        self._sessions = sessions
        self._connections: dict[CliSession, _Connection] = {}
        self._changed = asyncio.Event()

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Serve a client until it disconnects.

        Raises:
            Refusal: The client may not connect.
        """
        session = self._sessions.get(request.headers.get("Websocket-Id", ""))
        if session is None:
            raise errors.unknown_websocket()
        if request.query.get("websocket_feature") != session.feature:
            raise errors.invalid_request(400, "The WebSocket feature is not authorized.")
        if SUBPROTOCOL not in request.headers.get("Sec-WebSocket-Protocol", ""):
            raise errors.invalid_request(400, "Unknown WebSocket subprotocol.")
        self._abort(session)
        socket = web.WebSocketResponse(protocols=(SUBPROTOCOL,), compress=False)
        await socket.prepare(request)
        session.start_over()
        sending = asyncio.create_task(_send(session, socket))
        connection = _Connection(request=request, socket=socket, sending=sending)
        self._connections[session] = connection
        self._notify()
        try:
            async for message in socket:
                if message.type is WSMsgType.TEXT:
                    session.receive(orjson.loads(message.data))
        finally:
            sending.cancel()
            if self._connections.get(session) is connection:
                del self._connections[session]
                self._notify()
        return socket

    async def connected(self, count: int = 1) -> None:
        """Wait until there are exactly this many connections."""
        while len(self._connections) != count:
            await self._changed.wait()

    def drop(self) -> None:
        """Abort all connections without a close frame; the sessions stay."""
        for session in list(self._connections):
            self._abort(session)

    def silence(self) -> None:
        """Keep all connections open, but read and send nothing on them, including pongs.

        A client sees the same when a network is lost without notice.
        """
        for connection in self._connections.values():
            connection.sending.cancel()
            if connection.request.transport is not None:
                connection.request.transport.pause_reading()

    async def say(self, message: Mapping[str, Any]) -> None:
        """Send a message of any kind on all connections."""
        for connection in list(self._connections.values()):
            await connection.socket.send_str(orjson.dumps(message).decode())

    def expire(self) -> None:
        """End all sessions and their connections."""
        self._sessions.expire()
        self.drop()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _abort(self, session: CliSession) -> None:
        connection = self._connections.pop(session, None)
        if connection is None:
            return
        if connection.request.transport is not None:
            connection.request.transport.abort()
        self._notify()


async def _send(session: CliSession, socket: web.WebSocketResponse) -> None:
    # Every new connection gives the session a new queue.
    queue = session.to_send
    while True:
        frame = session.frame(await queue.get())
        if frame is None:
            continue
        try:
            await socket.send_str(frame.decode())
        except ConnectionError:
            return
