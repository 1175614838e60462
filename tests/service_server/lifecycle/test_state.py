"""The stored JSON of lifecycle states, which services of several versions share."""

from datetime import UTC, datetime

from service_server.lifecycle.state import Failure, LifecycleState, Phase, StepKind

STATE = LifecycleState(
    phase=Phase.READY,
    etag="a1",
    run_id="r1",
    reconciles=True,
    has_sync_state=True,
    stalls=1,
    poll_stalls=2,
    due={
        StepKind.SETUP: datetime(2026, 1, 1, 12, tzinfo=UTC),
        StepKind.RUN: datetime(2026, 1, 1, 13, 0, 0, 250_000, tzinfo=UTC),
        StepKind.POLL: datetime(2026, 1, 1, 14, tzinfo=UTC),
        StepKind.INBOX: datetime(2026, 1, 1, 15, tzinfo=UTC),
    },
    reconcile_due=datetime(2026, 1, 8, 12, tzinfo=UTC),
    failures={
        StepKind.RUN: Failure(
            consecutive_failures=3,
            reason="down",
            needs_configuration_change=True,
            persistent=True,
        ),
        StepKind.INBOX: Failure(consecutive_failures=1, reason="no"),
    },
    outdated=True,
    columns_due=True,
)
# As services wrote it before the attributes had their present names.
JSON = (
    '{"phase":"ready","etag":"a1","run_id":"r1","reconciles":true,"has_state":true,"stalls":1,'
    '"poll_stalls":2,"due":{"setup":"2026-01-01T12:00:00Z","sync":"2026-01-01T13:00:00.250000Z",'
    '"poll":"2026-01-01T14:00:00Z","inbox":"2026-01-01T15:00:00Z"},'
    '"reconcile_due":"2026-01-08T12:00:00Z","troubles":{"sync":{"times":3,"reason":"down",'
    '"by_configuration":true,"lasts":true},"inbox":{"times":1,"reason":"no",'
    '"by_configuration":false,"lasts":false}},"outdated":true,"columns_due":true}'
)
INITIAL_JSON = (
    '{"phase":"setup","etag":"","run_id":"","reconciles":false,"has_state":false,"stalls":0,'
    '"poll_stalls":0,"due":{},"reconcile_due":null,"troubles":{},"outdated":false,'
    '"columns_due":false}'
)


def test_the_json_is_the_same_byte_for_byte() -> None:
    assert STATE.to_json() == JSON
    assert LifecycleState().to_json() == INITIAL_JSON


def test_the_json_of_the_previous_version_is_read() -> None:
    assert LifecycleState.from_json(JSON) == STATE
    assert LifecycleState.from_json(INITIAL_JSON) == LifecycleState()


def test_missing_keys_have_defaults() -> None:
    text = '{"phase":"backfill","etag":"a1","troubles":{"sync":{"times":2,"reason":"down"}}}'
    assert LifecycleState.from_json(text) == LifecycleState(
        phase=Phase.BACKFILL,
        etag="a1",
        failures={StepKind.RUN: Failure(consecutive_failures=2, reason="down")},
    )
    assert LifecycleState.from_json(None) == LifecycleState()


def test_unknown_keys_of_a_newer_version_are_ignored() -> None:
    assert LifecycleState.from_json('{"phase":"setup","from_the_future":1}') == LifecycleState()
