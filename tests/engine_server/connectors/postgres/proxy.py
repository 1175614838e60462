"""TCP proxy to a test's Postgres that stalls, cuts and refuses connections."""

import asyncio
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Self
from urllib.parse import parse_qs, urlsplit

from tests.loopback_server import LoopbackServer

# https://www.postgresql.org/docs/current/protocol-message-formats.html, "SSLRequest"
_SSL_REQUEST = (8).to_bytes(4) + (80877103).to_bytes(4)

# Returns the bytes to forward, and whether to cut the connection after them.
Decision = tuple[bytes, bool]


class Proxy:
    """Forwards to the Postgres behind a Unix socket; stalls, cuts and refuses on request.

    Attributes:
        url: The URL of the database through the proxy.
        port: The port at 127.0.0.1.
        passed: Bytes forwarded so far, in both directions.
        accepted: Connections accepted so far.
        encrypted: Connections that started TLS.
        held: Chunks delayed so far.
    """

    def __init__(self, database_url: str, *, tls: ssl.SSLContext | None = None) -> None:
        parts = urlsplit(database_url)
        self.lead_to(database_url)
        self._user, self._database = parts.username, parts.path
        self._tls = tls
        self._server = LoopbackServer(self._relay)
        self._writers: list[asyncio.StreamWriter] = []
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._stranded: list[asyncio.Event] = []
        self._decide: Callable[[bytes, bool], Decision | None] | None = None
        self.passed = self.accepted = self.encrypted = self.held = 0

    @property
    def port(self) -> int:
        return self._server.port

    @property
    def url(self) -> str:
        return f"postgresql://{self._user}@127.0.0.1:{self.port}{self._database}"

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.flow()
        await self.close()

    async def open(self) -> None:
        """Accept connections, at the same port as before."""
        await self._server.open()

    async def close(self) -> None:
        """Cut every connection and refuse new ones."""
        self.cut()
        await self._server.close()

    def lead_to(self, database_url: str) -> None:
        """Forward new connections to another Postgres."""
        [self._directory] = parse_qs(urlsplit(database_url).query)["host"]

    def cut(self) -> None:
        """Reset every connection, on both sides."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    def stall(self) -> None:
        """Silently forward nothing until ``flow``."""
        self._flowing.clear()

    def stall_after(self, count: int) -> None:
        """Stall once after ``count`` more bytes in both directions."""
        left = count

        def decide(data: bytes, _: bool) -> Decision | None:
            nonlocal left
            left -= len(data)
            if left <= 0:
                self.stall()
            return None

        self._decide = decide

    def strand(self) -> None:
        """Silently forward nothing of existing connections; new ones work."""
        self._flowing.clear()
        self._stranded.append(self._flowing)
        self._flowing = asyncio.Event()
        self._flowing.set()

    def flow(self) -> None:
        """Forward delayed and new bytes."""
        for flowing in (*self._stranded, self._flowing):
            flowing.set()

    def cut_after(self, count: int) -> None:
        """Cut all connections once after ``count`` more bytes in both directions."""
        left = count

        def decide(data: bytes, _: bool) -> Decision | None:
            nonlocal left
            if len(data) < left:
                left -= len(data)
                return None
            return data[:left], True

        self._decide = decide

    def cut_at(self, text: bytes, *, to_server: bool, deliver: bool) -> None:
        """Cut all connections once when ``text`` arrives; with ``deliver``, after forwarding it."""

        def decide(data: bytes, is_to_server: bool) -> Decision | None:
            if is_to_server != to_server or text not in data:
                return None
            return (data if deliver else b""), True

        self._decide = decide

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        self._writers.append(writer)
        first = await reader.readexactly(len(_SSL_REQUEST))
        if first == _SSL_REQUEST:
            writer.write(b"N" if self._tls is None else b"S")
            if self._tls is not None:
                await writer.start_tls(self._tls)
                self.encrypted += 1
            first = b""
        path = f"{self._directory}/.s.PGSQL.5432"
        server_reader, server_writer = await asyncio.open_unix_connection(path)
        self._writers.append(server_writer)
        try:
            server_writer.write(first)
            await asyncio.gather(
                self._pump(reader, server_writer, to_server=True),
                self._pump(server_reader, writer, to_server=False),
            )
        finally:
            server_writer.transport.abort()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, to_server: bool
    ) -> None:
        flowing = self._flowing
        with suppress(OSError):
            while data := await reader.read(65536):
                self.held += not flowing.is_set()
                await flowing.wait()
                decision = self._decide(data, to_server) if self._decide is not None else None
                if decision is not None:
                    data = decision[0]
                self.passed += len(data)
                writer.write(data)
                await writer.drain()
                if decision is not None:
                    self._decide = None
                    self.cut()
        writer.close()
