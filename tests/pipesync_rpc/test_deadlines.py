"""A part of a deadline is reserved for the answer."""

import pytest

from pipesync_rpc.deadlines import deadline_margin


@pytest.mark.parametrize(
    ("seconds", "margin"),
    [(0.0, 0.0), (0.2, 0.1), (0.5, 0.25), (0.8, 0.25), (2.0, 0.5), (4.0, 1.0), (3600.0, 1.0)],
)
def test_a_quarter_is_reserved_within_bounds(seconds: float, margin: float) -> None:
    assert deadline_margin(seconds, least=0.25, most=1.0) == margin
