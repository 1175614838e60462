"""A TCP server of a test, which leaves no connection and no task behind."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Self

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class LoopbackServer:
    """Call ``handle`` for each connection, and close the connection when it returns.

    A handler whose connection ends just ends; any other exception of a handler is raised when
    the server closes.

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
        """Take connections at the bound socket that was given, or at the port of before if any."""
        if self._sock is not None:
            self._server = await asyncio.start_server(self._accept, sock=self._sock)
        else:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Refuse new connections, reset the ones there are, and wait for their handlers.

        Raises:
            Exception: A handler's.
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
        # A task that is cancelled before its first step has closed nothing.
        for writer in connections:
            writer.transport.abort()
        # A connection that is closed or reset ends in a later turn of the event loop, and so does
        # a handler's own wait for that, which began earlier and so ends earlier.
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
                # Otherwise a cancellation would be everybody's who waits for the same.
                await asyncio.shield(writer.wait_closed())
        finally:
            writer.transport.abort()
