import asyncio
import math
import time
from collections import Counter

import pytest

from engine_server.connectors.stripe.api.rate_limit import RateLimiter, Rates, rates_for
from tests.engine_server.connectors.stripe import virtual_time


def limiter_for(key: float = math.inf, endpoint: float = math.inf) -> RateLimiter:
    return RateLimiter(Rates(key=key, burst_seconds=0.25, endpoint=endpoint, exceptions={}))


@pytest.mark.parametrize(
    ("base_url", "mode", "rate_limit", "key", "endpoint"),
    [
        ("https://api.stripe.com", "sk_live", None, 80, 20),
        ("https://api.stripe.com", "rk_live", None, 80, 20),
        ("https://api.stripe.com", "sk_test", None, 20, 20),
        ("https://api.stripe.com", "sk_live", 50.0, 50, 20),
        ("https://notstripe.com", "sk_live", None, math.inf, math.inf),
        ("http://127.0.0.1:1", "sk_live", None, math.inf, math.inf),
        ("http://127.0.0.1:1", "sk_test", 50.0, 50, math.inf),
    ],
)
def test_rates_follow_the_address_the_mode_and_the_configuration(
    base_url: str, mode: str, rate_limit: float | None, key: float, endpoint: float
) -> None:
    rates = rates_for(base_url=base_url, api_key=f"{mode}_1", rate_limit=rate_limit)
    limiter = RateLimiter(rates)
    assert limiter.key_rate == key
    assert limiter.endpoint_rate("/v1/customers") == endpoint


@pytest.mark.parametrize(("mode", "allowed"), [("sk_live", 100), ("sk_test", 25)])
def test_the_defaults_and_a_burst_add_up_to_stripes_limits(mode: str, allowed: float) -> None:
    rates = rates_for(base_url="https://api.stripe.com", api_key=f"{mode}_1", rate_limit=None)
    assert rates.key * (1 + rates.burst_seconds) == allowed
    assert rates.endpoint * (1 + rates.burst_seconds) == 25
    assert rates.exceptions["/v1/files"] * (1 + rates.burst_seconds) == 20


def test_a_configured_rate_has_hardly_any_burst() -> None:
    rates = rates_for(base_url="https://api.stripe.com", api_key="sk_live_1", rate_limit=50.0)
    assert rates.key * (1 + rates.burst_seconds) == pytest.approx(55)


@pytest.mark.parametrize(
    ("reason", "key_rate", "endpoint_rate"),
    [
        ("endpoint-rate", 80, 10),
        ("endpoint-concurrency", 80, 10),
        ("resource-specific", 80, 10),
        ("global-rate", 40, 20),
        ("global-concurrency", 40, 20),
        ("", 40, 20),
    ],
)
def test_the_reason_selects_the_bucket_to_slow_down(
    reason: str, key_rate: float, endpoint_rate: float
) -> None:
    limiter = limiter_for(80, 20)
    limiter.slow_down("/v1/customers", reason, time.monotonic())
    assert limiter.key_rate == pytest.approx(key_rate, rel=0.01)
    assert limiter.endpoint_rate("/v1/customers") == pytest.approx(endpoint_rate, rel=0.01)
    assert limiter.endpoint_rate("/v1/charges") == 20


def test_two_hundred_users_of_a_key_get_equal_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    served: Counter[int] = Counter()

    async def use(limiter: RateLimiter, number: int) -> None:
        while True:
            await limiter.acquire(f"/v1/list_{number % 10}")
            served[number] += 1

    async def main() -> None:
        limiter = limiter_for(80, 20)
        users = [asyncio.create_task(use(limiter, number)) for number in range(200)]
        await asyncio.sleep(60)
        for user in users:
            user.cancel()

    virtual_time.run(monkeypatch, main())
    assert len(served) == 200
    assert max(served.values()) - min(served.values()) <= 1
    assert 4795 <= served.total() <= 4820


def test_an_idle_stream_yields_its_share_and_regains_it_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    served = 0

    async def busy(limiter: RateLimiter) -> None:
        nonlocal served
        while True:
            await limiter.acquire("/v1/busy")
            served += 1

    async def main() -> None:
        limiter = limiter_for(20)
        users = [asyncio.create_task(busy(limiter)) for _ in range(50)]
        await asyncio.sleep(10)
        # Alone it used the whole rate.
        assert 199 <= served <= 206
        began = time.monotonic()
        # Fifty wait at the other endpoint, but only one of them for the key.
        await limiter.acquire("/v1/idle")
        assert time.monotonic() - began < 3 / 20
        for user in users:
            user.cancel()

    virtual_time.run(monkeypatch, main())


def test_requests_that_waited_for_the_key_do_not_overrun_their_endpoint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent: list[float] = []

    async def use(limiter: RateLimiter) -> None:
        await limiter.acquire("/v1/list")
        sent.append(time.monotonic())

    async def main() -> None:
        limiter = limiter_for(80, 20)
        for _ in range(10):
            limiter.slow_down("/v1/list", "global-rate", time.monotonic())
            await asyncio.sleep(1)
        # Many wait for the slow key, which then recovers to four times the endpoint's rate.
        await asyncio.gather(*(use(limiter) for _ in range(400)))

    virtual_time.run(monkeypatch, main())
    assert max(sum(1 for other in sent if at <= other < at + 1) for at in sent) <= 25


async def test_a_cancelled_wait_takes_from_neither_bucket() -> None:
    limiter = limiter_for(0.001)
    await limiter.acquire("/v1/list")
    waiting = asyncio.create_task(limiter.acquire("/v1/list"))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    limiter.set_rates(Rates(key=1000, burst_seconds=0.1, endpoint=1000, exceptions={}))
    async with asyncio.timeout(1):
        await limiter.acquire("/v1/list")


def test_the_number_of_endpoints_does_not_grow_without_bounds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        limiter = limiter_for(1000, 20)
        limiter.slow_down("/v1/slow", "endpoint-rate", time.monotonic())
        for number in range(5_000):
            await limiter.acquire(f"/v1/invoices/in_{number}/lines")
        assert len(limiter._endpoints) <= 500
        # After five seconds it has not recovered, and is not forgotten.
        assert limiter.endpoint_rate("/v1/slow") == pytest.approx(15, rel=0.01)

    virtual_time.run(monkeypatch, main())
