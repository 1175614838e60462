import asyncio
import math
import time
import uuid

import pytest

from engine_server.connectors.stripe.rate_limit import RateLimiter, TokenBucket, limiter_for


async def test_tokens_come_at_the_rate() -> None:
    bucket = TokenBucket(200)
    began = time.monotonic()
    for _ in range(41):
        await bucket.acquire()
    # The first is free; at most a small burst is saved up.
    assert 0.18 <= time.monotonic() - began < 0.4


async def test_whoever_came_first_goes_first() -> None:
    bucket = TokenBucket(500)
    served: list[int] = []

    async def take(number: int) -> None:
        await bucket.acquire()
        served.append(number)

    await asyncio.gather(*(take(number) for number in range(20)))
    assert served == list(range(20))


async def test_a_cancelled_wait_takes_no_token_and_holds_nobody_up() -> None:
    bucket = TokenBucket(100)
    await bucket.acquire()
    waiting = [asyncio.create_task(bucket.acquire()) for _ in range(50)]
    last = asyncio.create_task(bucket.acquire())
    await asyncio.sleep(0)
    for task in waiting:
        task.cancel()
    async with asyncio.timeout(0.2):
        await last
    assert all(task.cancelled() for task in await _ended(waiting))


async def _ended(tasks: list[asyncio.Task[None]]) -> list[asyncio.Task[None]]:
    await asyncio.wait(tasks)
    return tasks


def test_slowing_down_halves_the_rate_once_for_one_excess_and_it_comes_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    bucket = TokenBucket(100)
    for _ in range(5):
        bucket.slow_down()
    assert bucket.rate == 50
    now += 2
    assert bucket.rate == pytest.approx(60)
    bucket.slow_down()
    assert bucket.rate == pytest.approx(30)
    now += 60
    assert bucket.rate == 100


async def test_an_unlimited_bucket_never_waits() -> None:
    bucket = TokenBucket(math.inf)
    bucket.slow_down()
    async with asyncio.timeout(1):
        for _ in range(1000):
            await bucket.acquire()


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
def test_the_reason_says_which_bucket_slows_down(
    reason: str, key_rate: float, endpoint_rate: float
) -> None:
    limiter = RateLimiter(key_rate=80, endpoint_rate=20)
    limiter.slow_down("/v1/customers", reason)
    assert limiter.key_rate == pytest.approx(key_rate, rel=0.01)
    assert limiter.endpoint_rate("/v1/customers") == pytest.approx(endpoint_rate, rel=0.01)
    assert limiter.endpoint_rate("/v1/charges") == 20


@pytest.mark.parametrize(
    ("base_url", "mode", "rate_limit", "key_rate", "endpoint_rate"),
    [
        ("https://api.stripe.com", "sk_live", None, 80, 20),
        ("https://api.stripe.com", "rk_live", None, 80, 20),
        ("https://api.stripe.com", "sk_test", None, 20, 20),
        ("https://api.stripe.com", "sk_live", 50.0, 50, 20),
        ("http://127.0.0.1:1", "sk_live", None, math.inf, math.inf),
        ("http://127.0.0.1:1", "sk_test", 50.0, 50, math.inf),
    ],
)
def test_rates_follow_the_address_the_mode_and_the_configuration(
    base_url: str, mode: str, rate_limit: float | None, key_rate: float, endpoint_rate: float
) -> None:
    key = f"{mode}_{uuid.uuid4().hex}"
    limiter = limiter_for(base_url=base_url, api_key=key, rate_limit=rate_limit)
    assert limiter.key_rate == key_rate
    assert limiter.endpoint_rate("/v1/customers") == endpoint_rate


def test_all_users_of_a_key_share_one_limiter_and_the_last_configuration() -> None:
    key = f"sk_test_{uuid.uuid4().hex}"
    first = limiter_for(base_url="http://127.0.0.1:1", api_key=key, rate_limit=5.0)
    assert limiter_for(base_url="http://127.0.0.1:1", api_key=key, rate_limit=9.0) is first
    assert first.key_rate == 9
    assert limiter_for(base_url="http://127.0.0.1:2", api_key=key, rate_limit=5.0) is not first
