"""TCP server of a test that leaves no connection and no task behind."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Self

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class LoopbackServer:
    """A server that calls ``handle`` for each connection, and closes the connection afterwards.

    A handler whose connection ends just ends; any other exception of a handler is raised when the
    server closes.

    Attributes:
        port: Port of 127.0.0.1, once the server is open.
    """

    def __init__(self, handle: Handler, *, sock: socket.socket | None = None) -> None:
        self.port = 0
        self._handle = handle
        self._sock = sock
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.StreamWriter, asyncio.Task[None]] = {}

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self) -> None:
        """Accept connections at the given bound socket, or else at the previous port if any."""
        if self._sock is not None:
            self._server = await asyncio.start_server(self._accept, sock=self._sock)
        else:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Refuse new connections, reset the open ones, and wait for their handlers.

        Raises:
            Exception: A handler raised it.
        """
        if self._server is None:
            return
        self._server.close()
        await self._server.wait_closed()
        self._server = None
        connections, self._connections = self._connections, {}
        for task in connections.values():
            task.cancel()
        ends = await asyncio.gather(*connections.values(), return_exceptions=True)
        # A task that is cancelled before its first step has not closed its connection.
        for writer in connections:
            writer.transport.abort()
        # A closed or reset connection ends in a later turn of the event loop, and so does a
        # handler's own wait for that, which began earlier and so ends earlier.
        await asyncio.gather(
            *(writer.wait_closed() for writer in connections), return_exceptions=True
        )
        for end in ends:
            if isinstance(end, Exception):
                raise end

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._server is None:
            writer.transport.abort()
            return
        self._connections[writer] = asyncio.create_task(self._serve(reader, writer))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                await self._handle(reader, writer)
                writer.close()
                # Otherwise a cancellation would reach every task that waits for the same end.
                await asyncio.shield(writer.wait_closed())
        finally:
            writer.transport.abort()
