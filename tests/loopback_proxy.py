"""Small but real HTTP proxy on the loopback interface."""

import asyncio
import base64
from typing import Self
from urllib.parse import urlsplit

from tests.loopback_server import LoopbackServer


class LoopbackProxy:
    """A proxy that forwards requests and tunnels, or refuses them.

    Attributes:
        port: Port of the proxy, once it is entered.
        heads: Head of the first request of each connection, as received.
        refusals: Whole answers for the next connections, instead of forwarding them.
        credentials: Required ``user:password``; None admits every client.
    """

    def __init__(self, *, credentials: str | None = None) -> None:
        self.heads: list[str] = []
        self.refusals: list[bytes] = []
        self.credentials = credentials
        self._server = LoopbackServer(self._serve)

    @property
    def port(self) -> int:
        return self._server.port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        await self._server.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.close()

    def refuse(self, status: str, *, times: int = 1) -> None:
        """Answer the next connections with a page such as ``502 Bad Gateway``."""
        page = f"<html><body>{status}</body></html>"
        head = f"HTTP/1.1 {status}\r\nContent-Length: {len(page)}\r\nConnection: close\r\n\r\n"
        self.refusals += [(head + page).encode()] * times

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head.decode())
        if self.refusals:
            writer.write(self.refusals.pop(0))
            await writer.drain()
        elif not self._lets_in(head.decode()):
            writer.write(
                b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n"
                b"Connection: close\r\n\r\n"
            )
            await writer.drain()
        elif (far := _far_end(head)) is None:
            # From a program that knew another server at this port.
            writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
        else:
            await self._forward(far, head, reader, writer)

    def _lets_in(self, head: str) -> bool:
        if self.credentials is None:
            return True
        expected = base64.b64encode(self.credentials.encode()).decode()
        return f"Proxy-Authorization: Basic {expected}" in head

    async def _forward(
        self,
        far: tuple[str, int],
        head: bytes,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        far_reader, far_writer = await asyncio.open_connection(*far)
        try:
            if head.startswith(b"CONNECT "):
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                # Servers accept a whole URL, too, so further requests need no inspection.
                far_writer.write(head)
            pipes = [
                asyncio.create_task(_pipe(reader, far_writer)),
                asyncio.create_task(_pipe(far_reader, writer)),
            ]
            try:
                await asyncio.wait(pipes, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pipe in pipes:
                    pipe.cancel()
                await asyncio.gather(*pipes, return_exceptions=True)
        finally:
            far_writer.close()


def _far_end(head: bytes) -> tuple[str, int] | None:
    """Return the host and port of a request; None when the request is not for a proxy."""
    method, target, _ = head.decode().split(" ", 2)
    url = urlsplit(f"//{target}" if method == "CONNECT" else target)
    return None if url.hostname is None else (url.hostname, url.port or 80)


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()
