"""Pacing of requests for the rest of lists inside objects."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest
from aiohttp import web

from engine_server import exact_json
from engine_server.connectors.stripe.api.client import StripeClient
from engine_server.connectors.stripe.api.clock import ServerClock
from engine_server.connectors.stripe.api.exchange import ApiResponse
from engine_server.connectors.stripe.api.limiters import Limiters
from engine_server.connectors.stripe.api.stripe_api import StripeApi
from tests.engine_server.connectors.stripe.nested import invoice, records, subscription
from tests.engine_server.connectors.stripe.reading import QUICK, config_for
from tests.stripe_simulator import faults
from tests.stripe_simulator.rate_limits import RateLimits
from tests.stripe_simulator.simulator import StripeSimulator


class EndpointsOf(StripeClient):
    """A client that records the endpoints that its requests are paced as."""

    endpoints: set[str | None]

    async def get(
        self,
        path: str,
        params: Mapping[str, str],
        *,
        endpoint: str | None = None,
        decode: Callable[[bytes], Any] = exact_json.decode,
    ) -> ApiResponse[Any]:
        self.endpoints.add(endpoint)
        return await super().get(path, params, endpoint=endpoint, decode=decode)


@pytest.fixture
async def simulator() -> AsyncIterator[StripeSimulator]:
    async with StripeSimulator() as simulator:
        yield simulator


@pytest.fixture
async def client(simulator: StripeSimulator) -> AsyncIterator[EndpointsOf]:
    async with EndpointsOf(
        config_for(simulator), QUICK, limiters=Limiters(), clock=ServerClock()
    ) as client:
        client.endpoints = set()
        yield client


async def test_ids_do_not_make_separate_endpoints(
    simulator: StripeSimulator, client: EndpointsOf
) -> None:
    """Otherwise each would have its own rate, and the limiter would grow without bounds."""
    listed = [invoice(simulator, 11, f"in_{n}") for n in range(3)]
    await records(client, listed)
    assert client.endpoints == {"/v1/invoices/:id/lines"}
    client.endpoints.clear()
    await records(client, [subscription(simulator, 11, f"sub_{n}") for n in range(3)])
    assert client.endpoints == {"/v1/subscription_items"}


class UnderWay:
    """Records the most lists, and pages of the stream, requested at one time.

    The first requests are answered once the expected number has arrived, which makes their
    concurrency deterministic.
    """

    def __init__(self, *, expected_lists: int) -> None:
        self._expected_lists = expected_lists
        self._are_there = asyncio.Event()
        self._paths: list[str] = []
        self.most_lists = 0
        self.most_pages = 0

    async def __call__(self, request: web.Request, serve: faults.Serve) -> web.StreamResponse:
        self._paths.append(request.path)
        self.most_lists = max(self.most_lists, len(self._paths))
        self.most_pages = max(self.most_pages, len({page_of(path) for path in self._paths}))
        if len(self._paths) >= self._expected_lists:
            self._are_there.set()
        try:
            await self._are_there.wait()
            return await faults.latency(0.002)(request, serve)
        finally:
            self._paths.remove(request.path)


def page_of(path: str) -> str:
    """Return the page of an invoice ``in_<page>_<number>``, by the path of its lines."""
    return path.split("_")[1]


@pytest.mark.parametrize(("invoices", "at_once"), [(1, 1), (3, 3), (40, 8)])
async def test_only_some_lists_of_a_page_are_read_at_once(
    simulator: StripeSimulator, client: StripeClient, invoices: int, at_once: int
) -> None:
    under_way = UnderWay(expected_lists=at_once)
    simulator.faults.add(under_way, times=None)
    listed = [invoice(simulator, 120, f"in_page_{n}") for n in range(invoices)]
    emitted = await records(client, listed)
    assert [len(found["lines"]["data"]) for found in emitted] == [120] * invoices
    assert under_way.most_lists == at_once


async def test_concurrent_lists_are_bounded_by_the_useful_concurrency(
    simulator: StripeSimulator,
) -> None:
    under_way = UnderWay(expected_lists=3)
    simulator.faults.add(under_way, times=None)
    async with StripeApi(QUICK).client(config_for(simulator, max_concurrency=3)) as client:
        await records(client, [invoice(simulator, 120, f"in_page_{n}") for n in range(8)])
    assert under_way.most_lists == 3


async def test_only_a_few_pages_of_a_stream_are_completed_at_once(
    simulator: StripeSimulator, client: StripeClient
) -> None:
    under_way = UnderWay(expected_lists=16)
    simulator.faults.add(under_way, times=None)
    pages = [
        [invoice(simulator, 120, f"in_page{page}_{n}") for n in range(10)] for page in range(6)
    ]
    emitted = await asyncio.gather(*(records(client, listed) for listed in pages))
    assert {len(found["lines"]["data"]) for page in emitted for found in page} == {120}
    assert (under_way.most_pages, under_way.most_lists) == (2, 16)


async def test_the_rate_limit_of_the_key_applies_to_nested_lists_too(
    simulator: StripeSimulator,
) -> None:
    """Stripe refuses none of 40 requests at the full rate, beyond its burst."""
    simulator.limit_rate(RateLimits(per_second=20))
    listed = [invoice(simulator, 11, f"in_{n}") for n in range(40)]
    async with StripeApi(QUICK).client(config_for(simulator, rate_limit=20)) as client:
        await records(client, listed)
    assert [request.status for request in simulator.requests] == [200] * 40
