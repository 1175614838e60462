"""Times of events are read in both forms, and are in UTC."""

from datetime import UTC, datetime

import pytest

from pipesync_server.event_time import parse_event_time

NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    "created",
    [1767225600, "2026-01-01T00:00:00Z", "2026-01-01T00:00:00", "2026-01-01T02:00:00+02:00"],
)
def test_seconds_and_text_are_times_in_utc(created: object) -> None:
    assert parse_event_time(created) == NEW_YEAR


@pytest.mark.parametrize(
    "created",
    [
        None,
        True,
        1.5,
        "soon",
        10**12,
        10**30,
        -(10**12),
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-14:00",
        {},
    ],
)
def test_others_are_no_times(created: object) -> None:
    assert parse_event_time(created) is None
