"""Limits of a request, derived from its options."""

from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from engine_server.errors import InvalidRequest, Violations
from engine_server.sync.checks.options import check_options
from engine_server.sync.plan.limits import Limits, limits
from pipesync.v1.engine_service_pb2 import SyncOptions


def duration(seconds: float) -> Duration:
    value = Duration()
    value.FromNanoseconds(int(seconds * 1e9))
    return value


@pytest.mark.parametrize(
    ("time_limit", "soft_time_limit", "to_deadline", "hard", "soft"),
    [
        pytest.param(None, None, None, None, None, id="none"),
        pytest.param(10, None, None, 10, 8, id="a time limit brings a soft one"),
        pytest.param(2, None, None, 2, 1.6, id="2 s are enough to divide"),
        pytest.param(1.9, None, None, 1.9, 1.8, id="of less only a flush's time is kept"),
        pytest.param(0.05, None, None, 0.05, 0.025, id="but half of it at most"),
        pytest.param(10, 3, None, 10, 3, id="the caller's soft limit goes first"),
        pytest.param(None, 3, None, None, 3, id="a soft limit alone"),
        pytest.param(1, 0.5, None, 1, 0.5, id="a soft limit of a short time"),
        pytest.param(1, 1, None, 1, 0.9, id="a soft limit that leaves no time for a flush"),
        pytest.param(None, 30, 5, 4, 3.9, id="a soft limit behind the deadline"),
        pytest.param(None, None, 20, 19, 15.2, id="a deadline less a second"),
        pytest.param(None, None, 2, 1.5, 1.4, id="a short deadline less a quarter"),
        pytest.param(10, None, 6, 5, 4, id="the deadline comes first"),
        pytest.param(4, None, 60, 4, 3.2, id="the time limit comes first"),
        pytest.param(None, None, 0.6, 0.35, 0.25, id="a shorter one less a quarter of a second"),
        pytest.param(None, None, 0.1, 0.05, 0.025, id="or less half of it"),
        pytest.param(None, None, -1, 0, 0, id="a deadline that has long passed"),
        pytest.param(None, None, 0, 0, 0, id="a deadline that has passed"),
    ],
)
def test_time(
    time_limit: float | None,
    soft_time_limit: float | None,
    to_deadline: float | None,
    hard: float | None,
    soft: float | None,
) -> None:
    bounds = limits(
        SyncOptions(
            time_limit=None if time_limit is None else duration(time_limit),
            soft_time_limit=None if soft_time_limit is None else duration(soft_time_limit),
        ),
        soft_limit_fraction=0,
        default_state_limit=None,
        seconds_to_deadline=to_deadline,
    )
    assert bounds.hard_seconds == pytest.approx(hard)
    assert bounds.soft_seconds == pytest.approx(soft)


def test_the_destination_may_set_the_soft_limit_fraction() -> None:
    bounds = limits(
        SyncOptions(time_limit=duration(10)),
        soft_limit_fraction=0.5,
        default_state_limit=None,
        seconds_to_deadline=None,
    )
    assert bounds.soft_seconds == 5


def limited(
    time_limit: float,
    *,
    flush: float | None = None,
    empty: int = 0,
    fraction: float = 0,
    to_deadline: float | None = None,
) -> Limits:
    """Return the limits of a request with a time limit."""
    return limits(
        SyncOptions(time_limit=duration(time_limit)),
        soft_limit_fraction=fraction,
        default_state_limit=None,
        seconds_to_deadline=to_deadline,
        flush_seconds=flush,
        empty_requests=empty,
    )


@pytest.mark.parametrize(
    ("time_limit", "flush", "soft"),
    [
        pytest.param(10, 0.02, 8, id="fast flushes change nothing"),
        pytest.param(10, 3, 10 - 3.79, id="slow ones get what they take, and a margin"),
        pytest.param(10, 60, 5, id="half of the limit at most"),
        pytest.param(1, 0.02, 1 - 0.065, id="of a short limit, fast ones get less"),
        pytest.param(1, 0.3, 1 - 0.415, id="and slow ones more"),
    ],
)
def test_the_time_reserved_for_flushes_follows_their_durations(
    time_limit: float, flush: float, soft: float
) -> None:
    assert limited(time_limit, flush=flush).soft_seconds == pytest.approx(soft)


def test_each_empty_request_halves_the_time_reserved_for_flushes() -> None:
    softs = [limited(10, flush=0.08, empty=empty).soft_seconds for empty in range(3)]
    assert softs == pytest.approx([8, 10 - 0.07, 10 - 0.035])
    assert limited(10, empty=2, fraction=0.5).soft_seconds == 5


def test_connectors_have_stopped_before_the_deadline() -> None:
    assert limited(10).stop_seconds == 0.5
    assert limited(10, to_deadline=60).stop_seconds == 0.5
    assert limited(10, to_deadline=1).stop_seconds == pytest.approx(0.125)
    assert limited(10, to_deadline=10.2).stop_seconds == pytest.approx(0.5)
    assert limited(10, to_deadline=-1).stop_seconds == 0


@pytest.mark.parametrize(
    ("options", "to_deadline", "description"),
    [
        ({}, None, ""),
        ({"time_limit": duration(1.5)}, None, "time_limit of 1.5 s"),
        ({"soft_time_limit": duration(0.5)}, None, "soft_time_limit of 0.5 s"),
        (
            {"soft_time_limit": duration(0.5), "time_limit": duration(3)},
            60,
            "soft_time_limit of 0.5 s and the time_limit of 3 s",
        ),
        (
            {"time_limit": duration(3)},
            2,
            "call's deadline, 2 s after the request began",
        ),
    ],
)
def test_limits_are_named_with_their_values(
    options: dict[str, Any], to_deadline: float | None, description: str
) -> None:
    bounds = limits(
        SyncOptions(**options),
        soft_limit_fraction=0,
        default_state_limit=None,
        seconds_to_deadline=to_deadline,
    )
    assert bounds.description == description


@pytest.mark.parametrize(
    ("asked", "default", "expected"), [(0, None, None), (0, 1000, 1000), (5, None, 5), (5, 3, 5)]
)
def test_states(asked: int, default: int | None, expected: int | None) -> None:
    bounds = limits(
        SyncOptions(state_limit=asked),
        soft_limit_fraction=0,
        default_state_limit=default,
        seconds_to_deadline=None,
    )
    assert bounds.states == expected


def test_every_invalid_option_is_named() -> None:
    violations = Violations()
    check_options(
        SyncOptions(state_limit=-1, time_limit=duration(0), soft_time_limit=duration(-2)),
        violations,
        has_inputs=False,
    )
    with pytest.raises(InvalidRequest) as caught:
        violations.raise_if_any()
    assert [(one.field, one.description) for one in caught.value.field_violations] == [
        ("options.state_limit", "must be 1 or more, or 0 for the default"),
        ("options.time_limit", "must be longer than 0 s, or absent for no limit"),
        ("options.soft_time_limit", "must be longer than 0 s, or absent for no limit"),
    ]


def test_valid_options_pass() -> None:
    violations = Violations()
    check_options(SyncOptions(), violations, has_inputs=False)
    check_options(
        SyncOptions(state_limit=1, time_limit=duration(0.001)), violations, has_inputs=False
    )
    check_options(SyncOptions(events_only=True), violations, has_inputs=False)
    check_options(SyncOptions(reconcile=True), violations, has_inputs=False)
    violations.raise_if_any()


def test_reconcile_needs_history_and_events_only_excludes_inputs() -> None:
    violations = Violations()
    check_options(SyncOptions(events_only=True, reconcile=True), violations, has_inputs=True)
    with pytest.raises(InvalidRequest) as caught:
        violations.raise_if_any()
    assert [one.field for one in caught.value.field_violations] == [
        "options.events_only",
        "options.reconcile",
    ]
