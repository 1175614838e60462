import pytest

from engine_server.connectors.stripe.retry import RetryPolicy, is_retriable, retry_after


@pytest.mark.parametrize("status", [409, 429, 500, 502, 503, 504])
def test_conflicts_limits_and_server_errors_are_retried(status: int) -> None:
    assert is_retriable(status, {})


@pytest.mark.parametrize("status", [301, 400, 401, 402, 403, 404])
def test_refusals_are_not_retried(status: int) -> None:
    assert not is_retriable(status, {})


def test_stripe_should_retry_overrides_the_status() -> None:
    assert is_retriable(400, {"Stripe-Should-Retry": "true"})
    assert not is_retriable(500, {"Stripe-Should-Retry": "false"})


def test_delays_are_jittered_under_a_doubling_and_capped_bound() -> None:
    policy = RetryPolicy(first_delay=1, longest_delay=5)
    for attempt, bound in [(1, 1), (2, 2), (3, 4), (4, 5), (50, 5)]:
        delays = [policy.delay(attempt, None) for _ in range(300)]
        assert min(delays) >= 0
        assert bound * 0.8 < max(delays) <= bound


def test_the_delay_that_the_server_asks_for_comes_first_within_reason() -> None:
    assert RetryPolicy().delay(1, 7.0) == 7.0
    assert RetryPolicy().delay(1, 86_400.0) == 60.0


@pytest.mark.parametrize(
    ("value", "seconds"), [("2", 2.0), ("0.5", 0.5), ("soon", None), ("-1", None), ("inf", None)]
)
def test_retry_after_is_read_in_seconds(value: str, seconds: float | None) -> None:
    assert retry_after({"Retry-After": value}) == seconds
