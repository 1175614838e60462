from collections.abc import AsyncIterator
from typing import Any

import pytest

from engine_server.connectors.stripe.api.client import StripeClient
from engine_server.connectors.stripe.api.latency import Latency
from engine_server.connectors.stripe.api.stripe_api import StripeApi
from tests.engine_server.connectors.stripe.reading import QUICK, config_for
from tests.stripe_simulator import errors, faults
from tests.stripe_simulator.seeds.plan import SeedPlan
from tests.stripe_simulator.simulator import StripeSimulator

PATH = "/v1/customers"


@pytest.fixture
async def simulator() -> AsyncIterator[StripeSimulator]:
    async with StripeSimulator(SeedPlan(counts={"customers": 3, "products": 3})) as simulator:
        yield simulator


def client_for(simulator: StripeSimulator, **config: Any) -> StripeClient:
    return StripeApi(QUICK).client(config_for(simulator, **config))


def test_latency_is_a_guess_then_the_first_response_then_a_moving_average() -> None:
    latency = Latency()
    assert latency.of() == latency.of(PATH) == 0.3
    latency.measure(PATH, 1.0)
    assert latency.of() == latency.of(PATH) == 1.0
    latency.measure(PATH, 2.0)
    assert latency.of(PATH) == pytest.approx(1.2)
    for _ in range(40):
        latency.measure(PATH, 2.0)
    assert latency.of(PATH) == pytest.approx(2.0, rel=0.01)


def test_each_endpoint_has_its_own_latency_and_the_overall_one_before() -> None:
    latency = Latency()
    latency.measure(PATH, 0.1)
    latency.measure("/v1/invoices", 1.1)
    assert latency.of(PATH) == 0.1
    assert latency.of("/v1/invoices") == 1.1
    assert latency.of("/v1/products") == latency.of() == pytest.approx(0.3)


def test_further_endpoints_only_count_towards_the_overall_latency() -> None:
    latency = Latency()
    for number in range(10_000):
        latency.measure(f"/v1/invoices/in_{number}/lines", 0.1)
    latency.measure("/v1/late", 9.0)
    assert latency.of("/v1/late") == latency.of() == pytest.approx(1.88)


@pytest.mark.parametrize(
    ("rate_limit", "max_concurrency", "expected"),
    [
        # 0.3 seconds are assumed, with a margin of a quarter and one more request.
        (50.0, 32, 20),
        (80.0, 32, 31),
        (80.0, 8, 8),
        (0.5, 32, 2),
        (0.5, 1, 1),
        (None, 32, 32),
    ],
)
async def test_before_the_first_response_a_cautious_latency_is_assumed(
    simulator: StripeSimulator, rate_limit: float | None, max_concurrency: int, expected: int
) -> None:
    config = {"rate_limit": rate_limit, "max_concurrency": max_concurrency}
    async with client_for(simulator, **config) as client:
        assert client.useful_concurrency() == client.useful_concurrency(PATH) == expected


async def test_an_endpoint_of_stripe_gets_fewer_requests_than_the_key() -> None:
    config = {"api_key": "sk_live_concurrency", "base_url": "https://api.stripe.com"}
    async with client_for(StripeSimulator(), rate_limit=None, **config) as client:
        assert client.useful_concurrency() == 31
        assert client.useful_concurrency(PATH) == 9


async def test_only_complete_responses_count_towards_the_latency(
    simulator: StripeSimulator,
) -> None:
    simulator.faults.add(faults.latency(0.05), path=PATH, times=None)
    async with client_for(simulator, rate_limit=100.0, max_concurrency=100) as client:
        await client.get(PATH, {})
        # At least the result of 0.05 seconds; 39 is the assumed one.
        assert 8 <= client.useful_concurrency(PATH) < 39
        simulator.faults.clear()
        simulator.faults.add(faults.refuse(errors.server_error(500)), path=PATH, times=6)
        simulator.faults.add(faults.latency(0.05), path=PATH, times=None)
        await client.get(PATH, {})
        assert len(simulator.requests) == 8
        assert client.useful_concurrency(PATH) >= 8


async def test_waiting_for_a_token_does_not_count_as_latency(simulator: StripeSimulator) -> None:
    async with client_for(simulator, rate_limit=5.0) as client:
        for _ in range(3):
            await client.get(PATH, {})
        # They took 0.2 seconds each, nearly all of it waiting for the token.
        assert client.useful_concurrency() == 2


async def test_a_slowed_rate_lowers_the_useful_concurrency(simulator: StripeSimulator) -> None:
    simulator.faults.add(faults.refuse(errors.rate_limited("global-rate", retry_after=0)))
    async with client_for(simulator, rate_limit=1000.0, max_concurrency=100) as client:
        assert client.useful_concurrency() == 100
        simulator.faults.add(faults.latency(0.05), times=None)
        await client.get(PATH, {})
        assert client.useful_concurrency() < 60
