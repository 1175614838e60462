"""A listener for webhooks, which answers as it is told."""

import asyncio
from typing import Any, Self

import orjson
import stripe
from aiohttp import web
from aiohttp.test_utils import TestServer


class WebhookReceiver:
    """A server that takes down what it is sent, and verifies it with the stripe package.

    Attributes:
        secret: What deliveries have to be signed with.
        events: What was acknowledged, in the order of its arrival.
        answers: The statuses to answer next; 200 when there are none left.
        statuses: What was answered so far.
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
        """Where it listens."""
        return str(self._server.make_url("/hook"))

    def ids(self) -> list[str]:
        """The events' ids."""
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
        # Lets those that were sent side by side overtake each other.
        await asyncio.sleep(0)
        status = self.answers.pop(0) if self.answers else 200
        self.statuses.append(status)
        if status == web.HTTPOk.status_code:
            self.events.append(orjson.loads(body))
        return web.Response(status=status)
