"""Takes webhooks over HTTP on the loopback interface, each answered once it is committed.

Stripe takes any 2xx for an acknowledgement and delivers everything else again, for three days
(https://docs.stripe.com/webhooks#automatic-retries).
"""

import asyncio
import os
from collections.abc import Sequence
from functools import partial
from types import TracebackType
from typing import Self

import structlog
from aiohttp import web

from engine_server.connectors.stripe.events.deliveries import open_delivery
from engine_server.connectors.stripe.events.event import NotAnEvent, log_event
from engine_server.connectors.stripe.events.inbox import Inbox, Sender
from engine_server.connectors.stripe.events.pace import ListeningPace
from engine_server.errors import ConnectionFailed
from pipesync_rpc.webhook_signature import SIGNATURE_HEADER, BadSignature

log = structlog.get_logger()

_HOST = "127.0.0.1"
_MOST_BYTES = 1024 * 1024
# For the last answers to be written before their connections are closed.
_CLOSE_WITHIN = 0.2


class WebhookListener:
    """An async context manager; closing it closes the server and every connection."""

    def __init__(
        self, port: int, secrets: Sequence[str], inbox: Inbox, pace: ListeningPace
    ) -> None:
        """Opens nothing yet.

        Args:
            port: Of the loopback interface.
            secrets: What webhooks may be signed with.
            inbox: Where events go.
            pace: How long a webhook waits for its commit.
        """
        self._port = port
        self._secrets = secrets
        self._inbox = inbox
        self._pace = pace
        app = web.Application(client_max_size=_MOST_BYTES)
        app.router.add_route("*", "/{path:.*}", self._receive)
        self._runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=_CLOSE_WITHIN
        )

    async def __aenter__(self) -> Self:
        """Starts to listen.

        Raises:
            ConnectionFailed: The port is taken, or may not be used.
        """
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, _HOST, self._port).start()
        except OSError as error:
            await self._runner.cleanup()
            # What asyncio says of it names the address again.
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise ConnectionFailed(
                f"cannot listen on webhook_port {self._port} of {_HOST}: {reason}"
            ) from None
        log.info("webhook_listener_open", address=f"{_HOST}:{self._port}")
        return self

    async def __aexit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._runner.cleanup()

    async def _receive(self, request: web.Request) -> web.Response:
        if request.method != "POST":
            raise web.HTTPMethodNotAllowed(request.method, ["POST"])
        body = await request.read()
        try:
            event = open_delivery(body, request.headers.get(SIGNATURE_HEADER, ""), self._secrets)
        except BadSignature as error:
            log.warning("webhook_refused", status=401, error=str(error))
            return web.Response(status=401, text=f"not shown to be from Stripe: {error}")
        except NotAnEvent as error:
            log.warning("webhook_refused", status=400, error=str(error))
            return web.Response(status=400, text=f"no event: {error}")
        log_event("webhook", event)
        committed: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        sender = Sender(key=committed, answer=partial(_tell, committed), comes_again=True)
        if self._inbox.put(event.id, body, sender) and await self._wait_for(committed):
            return web.Response(text="committed")
        return web.Response(status=503, text="not committed now: deliver it again")

    async def _wait_for(self, committed: asyncio.Future[bool]) -> bool:
        await asyncio.wait([committed], timeout=self._pace.answer_within)
        return committed.done() and committed.result()


def _tell(committed: asyncio.Future[bool], is_committed: bool) -> None:
    # Whoever waited for it may be gone.
    if not committed.done():
        committed.set_result(is_committed)
