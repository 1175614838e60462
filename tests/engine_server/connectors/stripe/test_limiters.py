import time

import pytest

from engine_server.connectors.stripe.api.limiters import Limiters
from engine_server.connectors.stripe.api.rate_limit import RateLimiter, Rates

HERE, THERE = "http://127.0.0.1:1", "http://127.0.0.1:2"


def rates(key: float = 10.0) -> Rates:
    return Rates(key=key, burst_seconds=0.1, endpoint=10.0, exceptions={})


def use_once(limiters: Limiters, api_key: str, base_url: str = HERE) -> RateLimiter:
    with limiters.use(base_url=base_url, api_key=api_key, rates=rates()) as limiter:
        return limiter


def test_users_of_a_key_at_an_address_share_one_limiter_and_the_last_rates() -> None:
    limiters = Limiters()
    with limiters.use(base_url=HERE, api_key="sk_test_1", rates=rates(5)) as first:
        with limiters.use(base_url=HERE, api_key="sk_test_1", rates=rates(9)) as second:
            assert second is first
            assert first.key_rate == 9
        assert use_once(limiters, "sk_test_1", THERE) is not first
        assert use_once(limiters, "sk_test_2") is not first
        assert use_once(limiters, "sk_test_1") is first


def test_ten_thousand_unused_keys_leave_no_limiters() -> None:
    limiters = Limiters()
    with limiters.use(base_url=HERE, api_key="sk_test_used", rates=rates()) as used:
        for number in range(10_000):
            use_once(limiters, f"sk_test_{number}")
        assert use_once(limiters, "sk_test_used") is used
    use_once(limiters, "sk_test_last")
    assert len(limiters) == 1


@pytest.mark.parametrize("reason", ["global-rate", "endpoint-rate"])
def test_a_slowed_limiter_is_kept_until_it_has_recovered(
    monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    limiters = Limiters()
    slowed = use_once(limiters, "sk_test_1")
    slowed.slow_down("/v1/customers", reason, now)
    now += 9
    assert use_once(limiters, "sk_test_1") is slowed
    now += 2
    assert use_once(limiters, "sk_test_1") is not slowed


async def test_a_limiter_whose_token_was_just_taken_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    limiters = Limiters()
    used = use_once(limiters, "sk_test_1")
    await used.acquire("/v1/customers")
    assert use_once(limiters, "sk_test_1") is used
    now += 0.1
    assert use_once(limiters, "sk_test_1") is not used


def test_a_limiter_is_freed_when_its_user_fails() -> None:
    limiters = Limiters()
    with (
        pytest.raises(RuntimeError),
        limiters.use(base_url=HERE, api_key="sk_test_1", rates=rates()),
    ):
        raise RuntimeError
    use_once(limiters, "sk_test_2")
    assert len(limiters) == 1


def test_no_key_is_kept() -> None:
    limiters = Limiters()
    with limiters.use(base_url=HERE, api_key="sk_test_hidden", rates=rates()):
        assert "hidden" not in repr(vars(limiters))
