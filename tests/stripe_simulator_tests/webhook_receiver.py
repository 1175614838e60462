"""Receiver of webhooks that answers as a test tells it to."""

import asyncio
from typing import Any, Self

import orjson
import stripe
from aiohttp import web
from aiohttp.test_utils import TestServer


class WebhookReceiver:
    """A server that records its deliveries, and verifies them with the stripe package.

    Attributes:
        secret: Secret with which deliveries have to be signed.
        events: Acknowledged events, in the order of their arrival.
        answers: Statuses of the next answers; 200 when there are none left.
        statuses: Statuses of the answers so far.
    """

    def __init__(self) -> None:
        self.secret = ""
        self.events: list[dict[str, Any]] = []
        self.answers: list[int] = []
        self.statuses: list[int] = []
        app = web.Application()
        app.router.add_post("/hook", self._take)
        self._server = TestServer(app)

    @property
    def url(self) -> str:
        """Return the URL of the receiver."""
        return str(self._server.make_url("/hook"))

    def ids(self) -> list[str]:
        """Return the ids of the acknowledged events."""
        return [event["id"] for event in self.events]

    async def __aenter__(self) -> Self:
        await self._server.start_server()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.close()

    async def _take(self, request: web.Request) -> web.Response:
        body = await request.read()
        stripe.WebhookSignature.verify_header(
            body, request.headers["Stripe-Signature"], self.secret, tolerance=300
        )
        # Let concurrent deliveries overtake each other.
        await asyncio.sleep(0)
        status = self.answers.pop(0) if self.answers else 200
        self.statuses.append(status)
        if status == web.HTTPOk.status_code:
            self.events.append(orjson.loads(body))
        return web.Response(status=status)
