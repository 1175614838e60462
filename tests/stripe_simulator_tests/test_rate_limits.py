"""Rate limits, and answers to requests over the limits."""

from collections import Counter

import aiohttp

from tests.stripe_simulator.rate_limits import RateLimits
from tests.stripe_simulator.simulator import StripeSimulator

Client = aiohttp.ClientSession
# Too slow for a token to come back while a test runs.
SLOW = 0.001


async def outcome(client: Client, path: str) -> str:
    """Return ``ok``, or the limit that was hit."""
    async with client.get(path) as response:
        if response.status == 200:
            return "ok"
        assert response.status == 429
        assert (await response.json())["error"]["code"] == "rate_limit"
        return response.headers["Stripe-Rate-Limited-Reason"]


async def test_requests_over_the_account_s_rate_are_refused(
    simulator: StripeSimulator, client: Client
) -> None:
    simulator.limit_rate(RateLimits(per_second=SLOW))
    assert await outcome(client, "/v1/customers") == "ok"
    assert await outcome(client, "/v1/products") == "global-rate"


async def test_requests_over_an_endpoint_s_rate_are_refused(
    simulator: StripeSimulator, client: Client
) -> None:
    simulator.limit_rate(RateLimits(per_endpoint=SLOW))
    assert await outcome(client, "/v1/customers") == "ok"
    assert await outcome(client, "/v1/customers") == "endpoint-rate"
    assert await outcome(client, "/v1/products") == "ok"


async def test_a_second_s_worth_of_requests_may_come_at_once(
    simulator: StripeSimulator, client: Client
) -> None:
    simulator.limit_rate(RateLimits(per_second=5))
    outcomes = Counter([await outcome(client, "/v1/customers") for _ in range(20)])
    assert outcomes["ok"] >= 5
    assert outcomes["global-rate"] >= 1


async def test_retry_after_is_sent_only_when_asked_for(
    simulator: StripeSimulator, client: Client
) -> None:
    simulator.limit_rate(RateLimits(per_second=SLOW))
    await outcome(client, "/v1/customers")
    async with client.get("/v1/customers") as response:
        assert "Retry-After" not in response.headers
    simulator.limit_rate(RateLimits(per_second=SLOW, retry_after=0.5))
    await outcome(client, "/v1/customers")
    async with client.get("/v1/customers") as response:
        assert response.headers["Retry-After"] == "0.5"
