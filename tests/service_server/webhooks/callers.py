"""Raw connections to an HTTP server of a test."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass

from pipesync_rpc.credentials import ServerTls
from pipesync_server.client_address import TrustedProxies
from service_server.background.heartbeats import Heartbeats
from service_server.http import HttpLimits, HttpServer
from service_server.store.database import Database
from tests.service_server.webhooks.conftest import InboxHarness
from tests.service_server.webhooks.deliveries import headers

LIMITS = HttpLimits()
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
# Time that a response, or the end of a connection, may take on a busy machine.
PATIENCE = 20.0


@dataclass(frozen=True, slots=True)
class Caller:
    """The client's end of a raw connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def close(self) -> None:
        self.writer.transport.abort()
        with suppress(OSError):
            await self.writer.wait_closed()

    async def answer(self) -> tuple[int, bytes]:
        """Read the next response, and return its status and head."""
        async with asyncio.timeout(PATIENCE):
            head = await self.reader.readuntil(b"\r\n\r\n")
            [length] = [
                int(line.partition(b":")[2])
                for line in head.lower().split(b"\r\n")
                if line.startswith(b"content-length:")
            ]
            await self.reader.readexactly(length)
        return int(head.split(b" ", 2)[1]), head

    async def status(self, data: bytes) -> int:
        """Send a request, and return the status of the response."""
        await self.send(data)
        return (await self.answer())[0]

    async def ended(self) -> bytes:
        """Return the rest of the data, once the server has ended the connection."""
        async with asyncio.timeout(PATIENCE):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """An HTTP server with its callers."""

    server: HttpServer
    harness: InboxHarness
    calling: AsyncExitStack

    async def call(self, context: ssl.SSLContext | None = None) -> Caller:
        """Open a connection."""
        port = int(self.server.address.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        caller = Caller(reader, writer)
        self.calling.push_async_callback(caller.close)
        return caller

    async def calls(self, count: int, data: bytes = b"") -> Sequence[Caller]:
        """Open connections, and send ``data`` on each."""
        callers = [await self.call() for _ in range(count)]
        for caller in callers:
            caller.writer.write(data)
        return callers

    def ended(self, reason: str) -> float:
        """Return the number of connections that the server ended for this reason."""
        return self.metric("pipesync_http_connections_ended_total", reason=reason)

    def limited(self, limit: str) -> float:
        """Return the number of deliveries that exceeded this limit."""
        return self.metric("pipesync_webhook_deliveries_limited_total", ingress="http", limit=limit)

    def metric(self, name: str, **labels: str) -> float:
        shown = ",".join(f'{label}="{value}"' for label, value in labels.items())
        line = f"{name}{{{shown}}} " if shown else f"{name} "
        return sum(
            float(one.removeprefix(line))
            for one in self.harness.metrics.text(None).decode().splitlines()
            if one.startswith(line)
        )


Serve = Callable[..., "asyncio.Future[Site]"]


@asynccontextmanager
async def serving(harness: InboxHarness, database: Database) -> AsyncIterator[Serve]:
    """Yield a function that starts HTTP servers, which end with the body."""
    async with AsyncExitStack() as stack:

        async def start(
            limits: HttpLimits = LIMITS,
            proxies: Sequence[str] = (),
            tls: ServerTls | None = None,
        ) -> Site:
            server = await stack.enter_async_context(
                HttpServer(
                    listen="127.0.0.1:0",
                    receiver=harness.receiver,
                    database=database,
                    metrics=harness.metrics,
                    heartbeats=Heartbeats(),
                    tls=tls,
                    grace=PATIENCE,
                    limits=limits,
                    proxies=TrustedProxies(proxies),
                )
            )
            calling = await stack.enter_async_context(AsyncExitStack())
            return Site(server=server, harness=harness, calling=calling)

        yield start  # type: ignore[misc]


def head(path: str = "hooked", signature: str | None = None, *lines: str, length: int = 0) -> bytes:
    """Return the head of a delivery."""
    signed = headers(b"")["stripe-signature"] if signature is None else signature
    given = [f"POST /webhooks/{path} HTTP/1.1", "Host: x", f"Content-Length: {length}", *lines]
    if signed:
        given.append(f"Stripe-Signature: {signed}")
    return "\r\n".join([*given, "", ""]).encode()


def delivery(body: bytes, path: str = "hooked", *lines: str) -> bytes:
    return head(path, headers(body)["stripe-signature"], *lines, length=len(body)) + body


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - metrics have no events
            await asyncio.sleep(0.01)
