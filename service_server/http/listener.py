"""Listening sockets of the HTTP server."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import structlog
from aiohttp import web

from pipesync_rpc.credentials import CannotListen
from pipesync_server.client_address import UNIX
from service_server.floods import FloodLog
from service_server.http.connections import Connections, HttpConnection
from service_server.http.limits import HttpLimits

_log = structlog.get_logger(__name__)

_BACKLOG = 1024
_LAST_PORT = 65535
# Delay after a failure to accept a connection, e.g. for lack of file descriptors, in seconds.
_DELAY = 0.1
_REFUSAL = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\n"
    b"Content-Length: 0\r\n\r\n"
)


class Listener:
    """Accepts connections, one at a time.

    Each connection is counted before any read, because neither the framework nor the event loop
    counts connections, in particular during their TLS handshake. After each one the event loop runs
    other tasks, so that a flood of connections does not block them.
    """

    def __init__(
        self,
        server: web.Server,
        connections: Connections,
        limits: HttpLimits,
        context: ssl.SSLContext | None,
    ) -> None:
        self._server = server
        self._connections = connections
        self._limits = limits
        self._context = context
        self._opening: set[asyncio.Task[None]] = set()
        self._floods = FloodLog()

    @asynccontextmanager
    async def accepting(self, sockets: list[socket.socket]) -> AsyncIterator[None]:
        """Accept connections during the body, and then close the sockets."""
        tasks = [asyncio.create_task(self._accept(one)) for one in sockets]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            for one in sockets:
                one.close()
            for task in self._opening:
                task.cancel()
            if self._opening:
                await asyncio.wait(self._opening)

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, peer = await loop.sock_accept(listening)
                try:
                    self._admit(accepted, peer)
                except BaseException:
                    accepted.close()
                    raise
            except Exception as error:
                self._floods.log(
                    _log.warning, "http_connection_not_accepted", error=type(error).__name__
                )
                await asyncio.sleep(_DELAY)
            else:
                await asyncio.sleep(0)

    def _admit(self, accepted: socket.socket, peer: Any) -> None:
        address = str(peer[0]) if isinstance(peer, tuple) else UNIX
        connection = self._connections.admit(address, self._server())
        if connection is None:
            if self._context is None:
                with suppress(OSError):
                    accepted.send(_REFUSAL)
            accepted.close()
            return
        connection.opening = asyncio.create_task(self._open(accepted, connection))
        self._opening.add(connection.opening)
        connection.opening.add_done_callback(self._opening.discard)

    async def _open(self, accepted: socket.socket, connection: HttpConnection) -> None:
        times: dict[str, float] = {}
        if self._context is not None:
            times["ssl_handshake_timeout"] = self._limits.handshake_timeout
            times["ssl_shutdown_timeout"] = self._limits.answer_timeout
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: connection, accepted, ssl=self._context, **times
            )
        except OSError as error:
            # The handshake failed, or the client left.
            self._connections.fail(connection, error)
        except BaseException:
            self._connections.remove(connection)
            raise
        finally:
            connection.opening = None
            if connection.transport is None:
                accepted.close()


async def bind(listen: str) -> tuple[list[socket.socket], str]:
    """Return listening sockets, and the address without its scheme.

    Raises:
        CannotListen: The address is invalid or in use.
    """
    path = listen.removeprefix("unix:")
    try:
        if path != listen:
            return [_unix_socket(path)], listen
        host, _, port = listen.rpartition(":")
        bare = host.removeprefix("[").removesuffix("]")
        if not bare or not port.isdecimal() or int(port) > _LAST_PORT:
            raise CannotListen(f"cannot listen on {listen!r}: give host:port")
        sockets = await _tcp_sockets(bare, int(port))
    except (OSError, OverflowError) as error:
        raise CannotListen(f"cannot listen on {listen}: {error}") from error
    return sockets, f"{host}:{sockets[0].getsockname()[1]}"


async def _tcp_sockets(host: str, port: int) -> list[socket.socket]:
    found = await asyncio.get_running_loop().getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    sockets: list[socket.socket] = []
    try:
        for family, address in dict.fromkeys((one[0], one[4]) for one in found):
            made = socket.create_server(
                address,
                family=family,
                backlog=_BACKLOG,
            )
            made.setblocking(False)
            sockets.append(made)
    except BaseException:
        for one in sockets:
            one.close()
        raise
    return sockets


def _unix_socket(path: str) -> socket.socket:
    # A process that was killed leaves its socket behind.
    with suppress(FileNotFoundError):
        if Path(path).is_socket():
            Path(path).unlink()
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.bind(path)
        made.listen(_BACKLOG)
        made.setblocking(False)
    except BaseException:
        made.close()
        raise
    return made
