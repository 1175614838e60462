from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from engine_server.connectors.stripe.api.retry import RetryPolicy, is_retriable, retry_after


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


def test_the_servers_delay_takes_precedence_within_bounds() -> None:
    for asked, expected in [(7.0, 7.0), (0.0, 0.0), (86_400.0, 60.0)]:
        delays = [RetryPolicy().delay(1, asked) for _ in range(300)]
        assert min(delays) >= expected
        assert expected * 1.2 <= max(delays) <= expected * 1.25
    assert RetryPolicy(longest_retry_after=2).delay(1, 60.0) <= 2.5


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("2", 2.0),
        ("0.5", 0.5),
        ("soon", None),
        ("-1", None),
        ("inf", None),
        ("nan", None),
        ("", None),
        ("Wed, 21 Oct 2015 07:28:10 GMT", 10.0),
        ("Wednesday, 21-Oct-15 07:28:10 GMT", 10.0),
        ("Wed, 21 Oct 2015 07:00:00 GMT", 0.0),
        ("Wed, 99 Oct 2015 07:00:00 GMT", None),
    ],
)
def test_retry_after_is_read_as_seconds_or_as_a_date(value: str, seconds: float | None) -> None:
    headers = {"Retry-After": value, "Date": "Wed, 21 Oct 2015 07:28:00 GMT"}
    assert retry_after(headers) == seconds


def test_a_date_is_compared_with_the_own_clock_if_the_server_shows_none() -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    seconds = retry_after({"Retry-After": soon})
    assert seconds is not None
    assert 95 <= seconds <= 100


def test_a_refusal_without_retry_after_asks_for_nothing() -> None:
    assert retry_after({}) is None
