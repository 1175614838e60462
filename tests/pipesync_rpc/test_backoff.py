"""Delays double up to a bound, and a part of them is random."""

import pytest

from pipesync_rpc.backoff import backoff_delay


@pytest.mark.parametrize(
    ("attempt", "bound"), [(1, 1.0), (2, 2.0), (3, 4.0), (4, 5.0), (5000, 5.0)]
)
@pytest.mark.parametrize("jitter", [0.5, 1.0])
def test_delays_double_up_to_a_bound_and_are_jittered(
    attempt: int, bound: float, jitter: float
) -> None:
    delays = [backoff_delay(attempt, first=1, longest=5, jitter=jitter) for _ in range(300)]
    assert bound * (1 - jitter) <= min(delays) < bound * (1.2 - jitter)
    assert bound * 0.8 < max(delays) <= bound


def test_without_jitter_every_delay_is_the_bound() -> None:
    assert [backoff_delay(n, first=30, longest=100, jitter=0) for n in (1, 2, 3)] == [30, 60, 100]
