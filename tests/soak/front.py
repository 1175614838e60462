"""Address that leads to one Postgres server, and to another one after a fail-over."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Self

_SOCKET = ".s.PGSQL.5432"
_CHUNK = 65_536


class Front:
    """Relay of each connection to the current server.

    Attributes:
        directory: The value of ``host`` in a connection URL.
    """

    def __init__(self, directory: Path, target: Path) -> None:
        self.directory = directory
        self._target: Path | None = target
        self._connections: set[asyncio.Task[None]] = set()

    @classmethod
    @asynccontextmanager
    async def open(cls, directory: Path, target: Path) -> AsyncIterator[Self]:
        """Listen in ``directory`` and lead to the server with its socket in ``target``."""
        front = cls(directory, target)
        server = await asyncio.start_unix_server(front._relay, directory / _SOCKET)
        # A pooler runs as another user.
        await asyncio.to_thread((directory / _SOCKET).chmod, 0o777)
        try:
            yield front
        finally:
            server.close()
            await front.cut()

    async def cut(self) -> None:
        """End every connection and refuse new ones, until ``lead_to`` is called."""
        self._target = None
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def lead_to(self, target: Path) -> None:
        """Relay new connections to the server with its socket in ``target``."""
        self._target = target

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        with suppress(OSError, asyncio.CancelledError):
            try:
                if self._target is not None:
                    await self._connect(self._target, reader, writer)
            finally:
                self._connections.discard(task)
                writer.close()

    async def _connect(
        self, target: Path, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        upstream_reader, upstream_writer = await asyncio.open_unix_connection(target / _SOCKET)
        try:
            ways = [
                asyncio.create_task(_pump(reader, upstream_writer)),
                asyncio.create_task(_pump(upstream_reader, writer)),
            ]
            try:
                # When either side closes, both are closed.
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        finally:
            upstream_writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(_CHUNK):
        writer.write(chunk)
        await writer.drain()
