"""The simulator: an HTTP server that answers as Stripe's API does, in process."""

import itertools
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from tests.stripe_simulator.accounts import Account
from tests.stripe_simulator.api import Api
from tests.stripe_simulator.errors import Refusal
from tests.stripe_simulator.faults import Faults
from tests.stripe_simulator.lists import OutsideCursor
from tests.stripe_simulator.objects import ObjectList
from tests.stripe_simulator.rate_limits import RateLimits, Throttle
from tests.stripe_simulator.request_log import REQUESTS_PATH, RequestLog, SeenRequest
from tests.stripe_simulator.seeds.plan import SeedPlan


class StripeSimulator:
    """A Stripe account, and those connected to it, behind an HTTP server on the loopback interface.

    ``async with StripeSimulator(SeedPlan(counts={"customers": 300})) as simulator`` serves it at
    ``simulator.base_url``.

    Attributes:
        api_key: The secret key, which may read all.
        account_id: The account's id.
        account_created: When the account was made, Unix seconds.
        base_url: Where it is reached, without a slash at the end; set once it is entered.
        requests: What was asked so far.
        faults: What goes wrong, and where.
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
        _fill(self._api.account, plan)

    def objects(self, stream: str, *, account: str | None = None) -> ObjectList:
        """The objects of a stream, to look at or to change: ``simulator.objects("customers")``.

        Args:
            stream: Their stream.
            account: The connected account that they belong to; None for the key's own.
        """
        return self._api.account_of(account or self.account_id).objects(stream)

    def connect(self, account_id: str, plan: SeedPlan | None = None) -> None:
        """Connects an account to the key's own, which makes that a Connect platform."""
        plan = plan or SeedPlan()
        self._api.connected[account_id] = account = Account(account_id, plan.created_from)
        _fill(account, plan)

    def restrict_key(self, key: str, *, may_read: Sequence[str]) -> None:
        """Lets a restricted key in, too, or changes what it may read.

        Args:
            key: ``rk_test_...``.
            may_read: Patterns of paths, such as ``/v1/issuing/*``.
        """
        self._api.keys.restrict(key, may_read)

    def expire_key(self, key: str) -> None:
        """Lets a key in no more."""
        self._api.keys.expire(key)

    def nest(self, url: str, documents: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Serves a list inside an object, and answers what the object then carries of it.

        ``simulator.nest("/v1/subscription_items?subscription=sub_1", items)``: what it answers
        carries the first ten and whether there are more; the URL lists all, in the order given.
        """
        return self._api.account.nested.put(url, documents)

    def limit_rate(self, limits: RateLimits) -> None:
        """Puts other rate limits in force, with full buckets."""
        self._api.throttle = Throttle(limits)

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_get(REQUESTS_PATH, self._tell_requests)
        app.router.add_route("*", "/{path:.*}", self._handle)
        app.on_response_prepare.append(self._name_request)
        # A stalled request ends with its client, and stopping waits for none (0: for all).
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
        await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        seen = SeenRequest(
            method=request.method,
            path=request.path,
            query=dict(request.query),
            headers={name.lower(): value for name, value in request.headers.items()},
        )
        self.requests.add(seen)
        response = await self.faults.serve(request, self._answer)
        seen.status = response.status
        return response

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        try:
            body = self._api.answer(request.method, request.path, request.query, request.headers)
        except Refusal as refusal:
            return refusal.response()
        return web.Response(body=body, content_type="application/json")

    async def _tell_requests(self, _request: web.Request) -> web.Response:
        return web.json_response(self.requests.statuses())

    async def _name_request(self, _request: web.Request, response: web.StreamResponse) -> None:
        response.headers["Request-Id"] = f"req_simulator{next(self._request_numbers):06}"


def _fill(account: Account, plan: SeedPlan) -> None:
    for seed in plan.seeds():
        account.objects(seed.stream).put(seed.document, listed=seed.listed)
