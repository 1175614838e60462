"""Webhook listener on the loopback interface, which acknowledges events once committed.

Stripe takes any 2xx for an acknowledgement and redelivers everything else, for three days
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

from engine_server.connectors.stripe.events.event import NotAnEvent, log_event
from engine_server.connectors.stripe.events.ingress.deliveries import open_delivery
from engine_server.connectors.stripe.events.ingress.event_queue import Acknowledger, EventQueue
from engine_server.connectors.stripe.events.intervals import ListeningIntervals
from engine_server.errors import ConnectionFailed
from pipesync_server.webhook_signature import SIGNATURE_HEADER, BadSignature

_log = structlog.get_logger(__name__)

_HOST = "127.0.0.1"
_MOST_BYTES = 1024 * 1024
# Seconds to write the last responses before their connections are closed.
_CLOSE_WITHIN = 0.2


class WebhookListener:
    """Async context manager that closes the server and every connection at its end."""

    def __init__(
        self, port: int, secrets: Sequence[str], queue: EventQueue, intervals: ListeningIntervals
    ) -> None:
        """Store the arguments; nothing is opened yet.

        Args:
            port: The port on the loopback interface.
            secrets: The secrets that webhooks may be signed with.
            queue: Receives the events.
            intervals: Limits how long a webhook waits for its commit.
        """
        self._port = port
        self._secrets = secrets
        self._queue = queue
        self._intervals = intervals
        app = web.Application(client_max_size=_MOST_BYTES)
        app.router.add_route("*", "/{path:.*}", self._receive)
        self._runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=_CLOSE_WITHIN
        )

    async def __aenter__(self) -> Self:
        """Start to listen.

        Raises:
            ConnectionFailed: The port is in use or not permitted.
        """
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, _HOST, self._port).start()
        except OSError as error:
            await self._runner.cleanup()
            # asyncio's own text would repeat the address.
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise ConnectionFailed(
                f"cannot listen on webhook_port {self._port} of {_HOST}: {reason}"
            ) from None
        _log.info("webhook_listener_open", address=f"{_HOST}:{self._port}")
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
            _log.warning("webhook_refused", status=401, error=str(error))
            return web.Response(status=401, text=f"not shown to be from Stripe: {error}")
        except NotAnEvent as error:
            _log.warning("webhook_refused", status=400, error=str(error))
            return web.Response(status=400, text=f"no event: {error}")
        log_event("webhook", event)
        committed: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        acknowledger = Acknowledger(
            key=committed, acknowledge=partial(_tell, committed), is_redelivered=True
        )
        if self._queue.put(event.id, body, acknowledger) and await self._wait_for(committed):
            return web.Response(text="committed")
        return web.Response(status=503, text="not committed yet: deliver it again")

    async def _wait_for(self, committed: asyncio.Future[bool]) -> bool:
        await asyncio.wait([committed], timeout=self._intervals.answer_within)
        return committed.done() and committed.result()


def _tell(committed: asyncio.Future[bool], is_committed: bool) -> None:
    # The request may have ended already.
    if not committed.done():
        committed.set_result(is_committed)
