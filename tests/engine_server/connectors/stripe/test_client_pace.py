"""Pacing of a client over real sockets, by a virtual clock."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from engine_server.connectors.stripe.api.client import StripeClient
from engine_server.connectors.stripe.api.errors import RequestFailed
from engine_server.connectors.stripe.api.retry import RetryPolicy
from engine_server.connectors.stripe.api.stripe_api import StripeApi
from tests.engine_server.connectors.stripe import virtual_time
from tests.engine_server.connectors.stripe.reading import config_for
from tests.stripe_simulator import errors, faults
from tests.stripe_simulator.rate_limits import RateLimits
from tests.stripe_simulator.simulator import StripeSimulator

PATH = "/v1/customers"
BOTH_REASONS = [
    faults.refuse(errors.rate_limited("global-rate")),
    faults.refuse(errors.rate_limited("endpoint-rate")),
]


class Arrivals:
    """Records the arrival of each request, and lets it through."""

    def __init__(self) -> None:
        self.times: list[float] = []

    async def __call__(self, request: web.Request, serve: faults.Serve) -> web.StreamResponse:
        self.times.append(time.monotonic())
        return await serve(request)

    def between(self, begin: float, end: float) -> int:
        """Return the number of arrivals in an interval, in seconds after the first."""
        return sum(1 for at in self.times if begin <= at - self.times[0] < end)


@asynccontextmanager
async def account(
    *more: faults.Fault, **simulated: Any
) -> AsyncIterator[tuple[StripeSimulator, Arrivals]]:
    async with StripeSimulator(**simulated) as simulator:
        arrivals = Arrivals()
        simulator.faults.add(arrivals, times=None)
        for fault in more:
            simulator.faults.add(fault, times=None)
        yield simulator, arrivals


async def read_pages(client: StripeClient, pages: int, *, path: str = PATH) -> None:
    """Request pages, with as many concurrent requests as are useful."""
    left = pages
    under_way: set[asyncio.Task[Any]] = set()
    while left or under_way:
        while left and len(under_way) < client.useful_concurrency(path):
            left -= 1
            under_way.add(asyncio.create_task(client.get(path, {})))
        done, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()


@pytest.mark.parametrize(("rate", "latency"), [(50.0, 0.2), (50.0, 0.5), (20.0, 0.05)])
def test_the_useful_concurrency_uses_the_rate(
    monkeypatch: pytest.MonkeyPatch, rate: float, latency: float
) -> None:
    async def main() -> None:
        jittered = faults.jittered_latency(latency * 0.5, latency * 1.5, seed=1)
        async with (
            account(jittered) as (simulator, _),
            StripeApi(RetryPolicy()).client(config_for(simulator, rate_limit=rate)) as client,
        ):
            began = time.monotonic()
            await read_pages(client, 500)
            passed = time.monotonic() - began
            # The last one is sent and then answered.
            assert 500 / rate * 0.99 < passed < 500 / rate * 1.03 + latency * 1.5

    virtual_time.run(monkeypatch, main())


def test_a_server_with_exactly_that_limit_refuses_no_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        async with (
            account(faults.latency(0.2), rate_limits=RateLimits(per_second=50)) as (
                simulator,
                seen,
            ),
            StripeApi(RetryPolicy()).client(config_for(simulator, rate_limit=50.0)) as client,
        ):
            for _ in range(5):
                await read_pages(client, 100)
                await asyncio.sleep(random.uniform(0, 3))  # noqa: S311 - any rest will do
            assert len(seen.times) == 500

    virtual_time.run(monkeypatch, main())


def test_a_storm_of_refusals_costs_few_extra_calls_at_a_lower_rate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        storm = faults.at_random(BOTH_REASONS, share=0.3, seed=3)
        async with (
            account(storm, faults.latency(0.2)) as (simulator, seen),
            StripeApi(RetryPolicy()).client(config_for(simulator, rate_limit=80.0)) as client,
        ):
            await read_pages(client, 700)
            # Three of ten calls are refused: 1,000 are needed, and no others are sent.
            assert 900 < len(seen.times) < 1100
            assert seen.between(0, 1) > 10
            # Half of 80, then half of that, and so on, while a twentieth is regained every second.
            assert all(seen.between(at, at + 1) <= 20 for at in range(5, 30))

    virtual_time.run(monkeypatch, main())


def test_a_server_that_refuses_everything_is_asked_less_and_then_as_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        async with (
            account(faults.latency(0.2)) as (simulator, seen),
            StripeApi(RetryPolicy()).client(config_for(simulator, rate_limit=80.0)) as client,
        ):
            simulator.faults.add(BOTH_REASONS[0], times=None)
            asking = asyncio.create_task(read_pages(client, 1000))
            await asyncio.sleep(60)
            assert not asking.done()
            # At most 32 send requests, each of them less often every time.
            assert seen.between(30, 60) < 32 * 30 / 10
            simulator.faults.clear()
            simulator.faults.add(seen, times=None)
            simulator.faults.add(faults.latency(0.2), times=None)
            await asking
            assert seen.between(0, 10_000) < 1000 + 32 * 20

    virtual_time.run(monkeypatch, main())


def test_a_server_that_never_stops_refusing_fails_within_minutes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        async with (
            account(BOTH_REASONS[0]) as (simulator, seen),
            StripeApi(RetryPolicy()).client(config_for(simulator, rate_limit=80.0)) as client,
        ):
            with pytest.raises(RequestFailed, match="rate_limit_reason: global-rate"):
                await client.get(PATH, {})
            assert len(seen.times) == RetryPolicy().rate_limited_attempts
            assert 60 < seen.times[-1] - seen.times[0] < 900

    virtual_time.run(monkeypatch, main())


def test_a_lock_slows_nothing_down(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        locked = errors.invalid_request(429, "locked", code="lock_timeout")
        async with (
            account() as (simulator, seen),
            StripeApi(RetryPolicy()).client(config_for(simulator, rate_limit=80.0)) as client,
        ):
            simulator.faults.add(faults.refuse(locked), times=3)
            await client.get(PATH, {})
            assert len(seen.times) == 4
            began = time.monotonic()
            await asyncio.gather(*(client.get(PATH, {}) for _ in range(80)))
            assert time.monotonic() - began == pytest.approx(1, abs=0.2)

    virtual_time.run(monkeypatch, main())


def test_retry_after_is_waited_for_even_with_tokens_available(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        async with (
            account() as (simulator, seen),
            StripeApi(RetryPolicy()).client(config_for(simulator, rate_limit=80.0)) as client,
        ):
            refusal = errors.rate_limited("global-rate", retry_after=7)
            simulator.faults.add(faults.refuse(refusal))
            await client.get(PATH, {})
            first, second = seen.times
            assert 7 <= second - first <= 7 * 1.25 + 0.1

    virtual_time.run(monkeypatch, main())


def test_two_hundred_clients_share_one_rate_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        served: list[int] = []

        async def use(client: StripeClient, number: int) -> None:
            for _ in range(3):
                await client.get(f"/v1/{['customers', 'charges'][number % 2]}", {})
                served.append(number)

        async with account() as (simulator, seen), AsyncExitStack() as stack:
            config = config_for(simulator, rate_limit=50.0)
            api = StripeApi(RetryPolicy())
            clients = [await stack.enter_async_context(api.client(config)) for _ in range(200)]
            await asyncio.gather(*(use(client, n) for n, client in enumerate(clients)))
            assert seen.times[-1] - seen.times[0] == pytest.approx(599 / 50, abs=0.2)
        for turn in range(3):
            counts = Counter(served[: 200 * (turn + 1)])
            assert len(counts) == 200
            assert max(counts.values()) <= turn + 2

    virtual_time.run(monkeypatch, main())
