"""Simulator: an HTTP server in process that answers as Stripe's API does."""

import asyncio
import itertools
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from email.utils import formatdate
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl

import orjson
from aiohttp import web

from tests.stripe_simulator import entitlements, mutations, subscription_items
from tests.stripe_simulator.accounts import Account
from tests.stripe_simulator.api import Api
from tests.stripe_simulator.cli_sessions import SOCKET_PATH
from tests.stripe_simulator.cli_sockets import CliSockets
from tests.stripe_simulator.errors import Refusal
from tests.stripe_simulator.events import AUTOMATIC, Event
from tests.stripe_simulator.faults import OTHER_HEADERS, Faults
from tests.stripe_simulator.lists import OutsideCursor
from tests.stripe_simulator.objects import ObjectList
from tests.stripe_simulator.rate_limits import RateLimits, Throttle
from tests.stripe_simulator.request_log import REQUESTS_PATH, RequestLog, SeenRequest
from tests.stripe_simulator.seeds.plan import SeedPlan

_REQUEST_ID = web.RequestKey("request_id", str)


class StripeSimulator:
    """A Stripe account, and those connected to it, behind an HTTP server on the loopback interface.

    ``async with StripeSimulator(SeedPlan(counts={"customers": 300})) as simulator`` serves it at
    ``simulator.base_url``.

    Attributes:
        api_key: Secret key, which may read all.
        account_id: Id of the account.
        account_created: Creation time of the account in Unix seconds.
        base_url: URL of the server, without a slash at the end; set when the simulator is entered.
        requests: Requests so far.
        faults: Faults in force.
        clock: Time of objects, events and the ``Date`` header; deliveries are signed in real time.
        deliveries: Deliveries by webhook, to inspect, disturb and wait for.
        cli_sessions: Sessions of the Stripe CLI, to inspect and wait for.
        cli_sockets: Connections of these sessions, to wait for and to abort.
    """

    def __init__(
        self,
        plan: SeedPlan | None = None,
        *,
        api_key: str = "sk_test_simulator",
        account_id: str = "acct_simulator",
        rate_limits: RateLimits | None = None,
        outside_cursor: OutsideCursor = "empty_page",
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        plan = plan or SeedPlan()
        self.api_key = api_key
        self.account_id = account_id
        self.account_created = plan.created_from
        self.base_url = ""
        self.requests = RequestLog()
        self.faults = Faults()
        self._address = (host, port)
        self._request_numbers = itertools.count(1)
        self._api = Api(
            api_key=api_key,
            account_id=account_id,
            account_created=self.account_created,
            outside_cursor=outside_cursor,
            rate_limits=rate_limits or RateLimits(),
        )
        self.clock = self._api.clock
        self.deliveries = self._api.notifications.deliveries
        self.cli_sessions = self._api.notifications.cli
        self.cli_sockets = CliSockets(self.cli_sessions)
        _fill(self._api.account, plan)

    def objects(self, stream: str, *, account: str | None = None) -> ObjectList:
        """Return a stream's objects, to inspect or change: ``simulator.objects("customers")``.

        Args:
            stream: Stream of the objects.
            account: Connected account of the objects; None for the key's own.
        """
        return self._account(account).objects(stream)

    def connect(self, account_id: str, plan: SeedPlan | None = None) -> None:
        """Connect an account to the key's own, which makes the latter a Connect platform."""
        plan = plan or SeedPlan()
        _fill(self._api.connect(account_id, plan.created_from), plan)

    def disconnect(self, account_id: str) -> None:
        """Disconnect an account: requests for it, and for the account itself, answer 403."""
        self._api.disconnect(account_id)

    def create(
        self, stream: str, fields: Mapping[str, Any] | None = None, *, account: str | None = None
    ) -> dict[str, Any]:
        """Make an object and its events; see ``mutations.create``."""
        return mutations.create(self._account(account), stream, fields or {})

    def update(
        self, stream: str, object_id: str, fields: Mapping[str, Any], *, account: str | None = None
    ) -> dict[str, Any]:
        """Change an object, and make its events; see ``mutations.update``."""
        return mutations.update(self._account(account), stream, object_id, fields)

    def delete(self, stream: str, object_id: str, *, account: str | None = None) -> dict[str, Any]:
        """Delete an object, and make its event; see ``mutations.delete``."""
        return mutations.delete(self._account(account), stream, object_id)

    def entitle(
        self, customer_id: str, lookup_keys: Sequence[str], *, account: str | None = None
    ) -> list[dict[str, Any]]:
        """Entitle a customer to exactly these features; see ``entitlements.entitle``."""
        return entitlements.entitle(self._account(account), customer_id, lookup_keys)

    def publish(self, event: Mapping[str, Any], *, account: str | None = None) -> None:
        """Publish an event of any shape without a change to any object.

        Args:
            event: A snapshot event, or a thin one (``"object": "v2.core.event"``).
            account: Connected account of the event; None for the key's own.
        """
        self._account(account).events.publish(event)

    def tell(
        self,
        event_type: str,
        about: Mapping[str, Any],
        *,
        previous: Mapping[str, Any] | None = None,
        account: str | None = None,
    ) -> None:
        """Make an event for a change to an object that is in no list, such as a part of another.

        Args:
            event_type: Event type, e.g. ``customer.source.updated``.
            about: Object of the event.
            previous: Value of ``previous_attributes``; None omits it.
            account: Connected account of the event; None for the key's own.
        """
        events = self._account(account).events
        events.record(event_type, orjson.dumps(about), previous, AUTOMATIC)

    def set_default_version(self, version: str, *, account: str | None = None) -> None:
        """Change an account's API version: further events are rendered in it.

        Requests without ``Stripe-Version`` are answered in it, too. Lists show each event as it was
        rendered at its creation.
        """
        self._account(account).events.default_version = version

    def on_event(self, listener: Callable[[Event], None], *, account: str | None = None) -> None:
        """Call the listener with each further event when it is made."""
        self._account(account).events.listeners.append(listener)

    def delay_events(self, longest: float, *, seed: int) -> None:
        """Delay further events in lists at random by up to ``longest`` seconds, out of order."""
        self._api.lag.spread(longest, seed=seed)

    def tell_bare_lists(self, *, account: str | None = None) -> None:
        """Reduce lists in ``previous_attributes`` to their first items, unmarked."""
        self._account(account).tells_bare_lists = True

    def register_webhook(
        self,
        url: str,
        enabled_events: Sequence[str] = ("*",),
        *,
        connect: bool = False,
        account: str | None = None,
    ) -> dict[str, Any]:
        """Register a webhook endpoint, and return it with its secret.

        Only endpoints on the loopback interface receive deliveries.
        """
        endpoints = self._api.notifications.endpoints_of(self._account(account))
        return endpoints.create(
            {"url": url, "enabled_events": list(enabled_events), "connect": connect}
        )

    def register_thin_webhook(self, url: str, *, account: str | None = None) -> str:
        """Deliver thin events to a URL, and return their signing secret."""
        return self._api.notifications.endpoints_of(self._account(account)).add_thin(url)

    def restrict_key(
        self, key: str, *, may_read: Sequence[str], may_write: Sequence[str] = ()
    ) -> None:
        """Accept a restricted key as well, or change its permissions.

        Args:
            key: Key of the form ``rk_test_...``.
            may_read: Patterns of readable paths, such as ``/v1/issuing/*``.
            may_write: Patterns of writable paths.
        """
        self._api.keys.restrict(key, may_read, may_write)

    def expire_key(self, key: str) -> None:
        """Stop accepting a key."""
        self._api.keys.expire(key)

    def nest(self, url: str, documents: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Serve a list inside an object, and return the list to embed in the object.

        ``simulator.nest("/v1/subscription_items?subscription=sub_1", items)``: the returned list
        contains the first ten items and whether there are more; the URL lists all, in the given
        order.
        """
        return self._api.account.nested.put(url, documents)

    def limit_rate(self, limits: RateLimits) -> None:
        """Replace the rate limits, with full buckets."""
        self._api.throttle = Throttle(limits)

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_get(REQUESTS_PATH, self._tell_requests)
        app.router.add_route("*", "/{path:.*}", self._handle)
        app.on_response_prepare.append(self._name_request)
        # A stalled request ends with its client, and stopping waits for none (0: for all).
        self._delivering = asyncio.create_task(self.deliveries.run())
        self._runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=0.01
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, *self._address).start()
        host, port = self._runner.addresses[0][:2]
        self.base_url = f"http://{host}:{port}"
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.cli_sockets.drop()
        await self._runner.cleanup()
        self._delivering.cancel()
        with suppress(asyncio.CancelledError):
            await self._delivering

    def _account(self, account_id: str | None) -> Account:
        return self._api.account_of(account_id or self.account_id)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        seen = SeenRequest(
            method=request.method,
            path=request.path,
            query=dict(request.query),
            headers={name.lower(): value for name, value in request.headers.items()},
        )
        self.requests.add(seen)
        request[_REQUEST_ID] = self._next_request_id()
        response = await self.faults.serve(request, self._answer)
        seen.status = response.status
        return response

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        text = await request.text() if request.method == "POST" else ""
        try:
            if request.path == SOCKET_PATH:
                return await self.cli_sockets.serve(request)
            body = self._api.answer(
                request.method,
                request.path,
                request.query,
                request.headers,
                parse_qsl(text, keep_blank_values=True),
                request[_REQUEST_ID],
            )
        except Refusal as refusal:
            return refusal.response()
        return web.Response(body=body, content_type="application/json")

    async def _tell_requests(self, _request: web.Request) -> web.Response:
        return web.json_response(self.requests.statuses())

    async def _name_request(self, request: web.Request, response: web.StreamResponse) -> None:
        response.headers["Request-Id"] = request.get(_REQUEST_ID) or self._next_request_id()
        # https://docs.stripe.com/api/versioning
        default = self._api.account.events.default_version
        response.headers["Stripe-Version"] = request.headers.get("Stripe-Version", default)
        response.headers["Date"] = formatdate(self.clock.date(), usegmt=True)
        for name, value in request.get(OTHER_HEADERS, {}).items():
            response.headers.pop(name, None)
            if value is not None:
                response.headers[name] = value

    def _next_request_id(self) -> str:
        return f"req_simulator{next(self._request_numbers):06}"


def _fill(account: Account, plan: SeedPlan) -> None:
    for seed in plan.seeds():
        account.objects(seed.stream).put(seed.document, listed=seed.listed)
        if seed.stream == "subscriptions":
            subscription_items.serve(account, seed.document)
