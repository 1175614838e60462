import asyncio
import math
import random
import time

import pytest

from engine_server.connectors.stripe.api.token_bucket import TokenBucket
from tests.engine_server.connectors.stripe import virtual_time


async def acquire(bucket: TokenBucket, count: int = 1) -> list[float]:
    """Take tokens one after the other, and return the times."""
    taken = []
    for _ in range(count):
        async with bucket.turn():
            bucket.take()
            taken.append(time.monotonic())
    return taken


@pytest.mark.parametrize("rate", [0.5, 1.0, 20.0, 50.0, 80.0, 1000.0])
def test_tokens_come_at_the_rate_after_the_first(
    monkeypatch: pytest.MonkeyPatch, rate: float
) -> None:
    async def main() -> None:
        await acquire(TokenBucket(rate, burst_seconds=0.1), 201)

    assert virtual_time.run(monkeypatch, main()) == pytest.approx(200 / rate)


@pytest.mark.parametrize(
    ("rate", "burst_seconds", "burst"),
    [(50.0, 0.1, 5), (20.0, 0.25, 5), (80.0, 0.25, 20), (2, 0.1, 1)],
)
def test_after_a_rest_one_burst_is_free(
    monkeypatch: pytest.MonkeyPatch, rate: float, burst_seconds: float, burst: int
) -> None:
    async def main() -> None:
        bucket = TokenBucket(rate, burst_seconds=burst_seconds)
        await asyncio.sleep(60)
        await acquire(bucket, 200)

    passed = virtual_time.run(monkeypatch, main()) - 60
    assert passed == pytest.approx((200 - burst) / rate)


@pytest.mark.parametrize(("rate", "burst_seconds"), [(50.0, 0.1), (80.0, 0.25), (3.0, 0.1)])
@pytest.mark.parametrize("seed", range(3))
def test_in_no_second_more_are_let_through_than_the_rate_and_a_burst(
    monkeypatch: pytest.MonkeyPatch, rate: float, burst_seconds: float, seed: int
) -> None:
    chance = random.Random(seed)  # noqa: S311 (repeatable on purpose, guards nothing)
    taken: list[float] = []

    async def main() -> None:
        bucket = TokenBucket(rate, burst_seconds=burst_seconds)
        for _ in range(60):
            for times in await asyncio.gather(
                *(acquire(bucket) for _ in range(chance.randint(1, 40)))
            ):
                taken.extend(times)
            await asyncio.sleep(chance.choice([0, 0.01, 0.3, 2]))

    virtual_time.run(monkeypatch, main(), lateness=lambda: chance.choice([0, 0.001, 0.02, 0.5]))
    bound = rate + max(1, rate * burst_seconds)
    for index, moment in enumerate(taken):
        in_a_second = sum(1 for other in taken[index:] if other < moment + 1)
        assert in_a_second <= math.ceil(bound)


@pytest.mark.parametrize("rate", [5.0, 50.0, 80.0])
def test_a_loop_that_wakes_up_late_costs_no_rate(
    monkeypatch: pytest.MonkeyPatch, rate: float
) -> None:
    chance = random.Random(7)  # noqa: S311 (repeatable on purpose, guards nothing)

    async def main() -> None:
        bucket = TokenBucket(rate, burst_seconds=0.1)
        await asyncio.gather(*(acquire(bucket, 50) for _ in range(20)))

    passed = virtual_time.run(monkeypatch, main(), lateness=lambda: chance.uniform(0, 0.08))
    assert 999 / rate <= passed < 999 / rate + 0.2


def test_reading_the_rate_takes_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask(bucket: TokenBucket) -> None:
        while True:
            assert bucket.rate == 5
            await asyncio.sleep(0.001)

    async def main() -> None:
        bucket = TokenBucket(5, burst_seconds=0.1)
        asking = asyncio.create_task(ask(bucket))
        await acquire(bucket, 101)
        asking.cancel()

    passed = virtual_time.run(monkeypatch, main(), lateness=lambda: 0.0003)
    assert 20 <= passed < 20.1


async def test_tokens_come_at_the_rate_by_the_real_clock() -> None:
    bucket = TokenBucket(200, burst_seconds=0.1)
    began = time.monotonic()
    await acquire(bucket, 41)
    assert 0.2 <= time.monotonic() - began < 0.4


async def test_callers_are_served_first_come_first_served() -> None:
    bucket = TokenBucket(5000, burst_seconds=0.1)
    served: list[int] = []

    async def take(number: int) -> None:
        await acquire(bucket)
        served.append(number)

    await asyncio.gather(*(take(number) for number in range(100)))
    assert served == list(range(100))


async def test_a_cancelled_wait_takes_no_token_and_delays_no_caller() -> None:
    bucket = TokenBucket(100, burst_seconds=0.1)
    await acquire(bucket)
    waiting = [asyncio.create_task(acquire(bucket)) for _ in range(50)]
    last = asyncio.create_task(acquire(bucket))
    await asyncio.sleep(0)
    for task in waiting:
        task.cancel()
    async with asyncio.timeout(0.2):
        await last
    await asyncio.wait(waiting)
    assert all(task.cancelled() for task in waiting)


class Clock:
    """A clock that moves only when told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_a_slowed_rate_is_halved_and_recovers_in_equal_steps(clock: Clock) -> None:
    bucket = TokenBucket(100, burst_seconds=0.25)
    bucket.slow_down(clock.now)
    rates = []
    for _ in range(12):
        rates.append(bucket.rate)
        clock.now += 1
    assert rates == pytest.approx([50, 55, 60, 65, 70, 75, 80, 85, 90, 95, 100, 100])


def test_requests_in_flight_together_slow_it_down_once(clock: Clock) -> None:
    bucket = TokenBucket(100, burst_seconds=0.25)
    sent_before = clock.now
    bucket.slow_down(sent_before)
    # They were answered late, long after the first.
    clock.now += 5
    bucket.slow_down(sent_before)
    bucket.slow_down(sent_before + 0.9)
    assert bucket.rate == pytest.approx(75)
    bucket.slow_down(sent_before + 4)
    assert bucket.rate == pytest.approx(37.5)


def test_under_lasting_refusals_it_goes_down_to_a_tenth_or_one_a_second(clock: Clock) -> None:
    fast, slow = TokenBucket(80, burst_seconds=0.25), TokenBucket(0.5, burst_seconds=0.25)
    for _ in range(30):
        fast.slow_down(clock.now)
        slow.slow_down(clock.now)
        clock.now += 1
    assert 1 <= fast.rate <= 8 + 4
    assert slow.rate == 0.5


def test_a_new_full_rate_does_not_undo_a_slow_down(clock: Clock) -> None:
    bucket = TokenBucket(80, burst_seconds=0.25)
    bucket.set_full_rate(100, burst_seconds=0.1)
    assert bucket.rate == 100
    bucket.slow_down(clock.now)
    bucket.set_full_rate(60, burst_seconds=0.1)
    assert bucket.rate == 50
    bucket.set_full_rate(20, burst_seconds=0.1)
    assert bucket.rate == 20
    clock.now += 100
    bucket.set_full_rate(math.inf, burst_seconds=0.1)
    assert bucket.rate == math.inf
    bucket.set_full_rate(20, burst_seconds=0.1)
    assert bucket.rate == 20


def test_it_is_replenished_when_it_has_no_state_to_keep(clock: Clock) -> None:
    bucket = TokenBucket(10, burst_seconds=0.25)

    def is_rested_after(seconds: float) -> bool:
        clock.now += seconds
        return bucket.is_replenished

    assert is_rested_after(0)
    bucket.take()
    assert not is_rested_after(0.09)
    assert is_rested_after(0.02)
    bucket.slow_down(clock.now)
    assert not is_rested_after(9.9)
    assert is_rested_after(0.2)


async def test_an_unlimited_bucket_never_waits() -> None:
    bucket = TokenBucket(math.inf, burst_seconds=0.25)
    bucket.slow_down(time.monotonic())
    async with asyncio.timeout(5):
        await acquire(bucket, 1000)
    assert bucket.rate == math.inf
    assert bucket.is_replenished
