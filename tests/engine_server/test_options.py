"""When a request stops, from what its caller asked for."""

import pytest
from google.protobuf.duration_pb2 import Duration

from engine_server.errors import InvalidRequest, Violations
from engine_server.options import check_options, limits
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
        pytest.param(1.9, None, None, 1.9, None, id="less is not"),
        pytest.param(10, 3, None, 10, 3, id="the caller's soft limit goes first"),
        pytest.param(None, 3, None, None, 3, id="a soft limit alone"),
        pytest.param(1, 0.5, None, 1, 0.5, id="a soft limit of a short time"),
        pytest.param(None, None, 20, 19, 15.2, id="a deadline less a second"),
        pytest.param(None, None, 2, 1.5, None, id="a short deadline less a quarter"),
        pytest.param(10, None, 6, 5, 4, id="the deadline comes first"),
        pytest.param(4, None, 60, 4, 3.2, id="the time limit comes first"),
        pytest.param(None, None, 0, 0, None, id="a deadline that has passed"),
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


def test_the_destination_may_want_another_share_for_flushing() -> None:
    bounds = limits(
        SyncOptions(time_limit=duration(10)),
        soft_limit_fraction=0.5,
        default_state_limit=None,
        seconds_to_deadline=None,
    )
    assert bounds.soft_seconds == 5


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


def test_every_bad_option_is_named() -> None:
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


def test_good_options_pass() -> None:
    violations = Violations()
    check_options(SyncOptions(), violations, has_inputs=False)
    check_options(
        SyncOptions(state_limit=1, time_limit=duration(0.001)), violations, has_inputs=False
    )
    check_options(SyncOptions(events_only=True), violations, has_inputs=False)
    check_options(SyncOptions(reconcile=True), violations, has_inputs=False)
    violations.raise_if_any()


def test_only_history_can_be_reconciled_and_only_without_inputs_can_events_be_asked_for() -> None:
    violations = Violations()
    check_options(SyncOptions(events_only=True, reconcile=True), violations, has_inputs=True)
    with pytest.raises(InvalidRequest) as caught:
        violations.raise_if_any()
    assert [one.field for one in caught.value.field_violations] == [
        "options.events_only",
        "options.reconcile",
    ]
