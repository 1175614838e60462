"""State machine of a pipeline whose streams gain fields."""

from datetime import datetime, timedelta

import pytest

from pipesync.v1.pipeline_service_pb2 import PIPELINE_STATUS_ERROR, PIPELINE_STATUS_READY
from service_server.lifecycle.actions import Poll, SetUp, Sync
from service_server.lifecycle.machine import decide, next_due, next_state, status
from service_server.lifecycle.outcomes import SetupSucceeded, StepFailed, StepOutcome
from service_server.lifecycle.state import LifecycleState, StepKind
from tests.service_server.lifecycle.test_machine import (
    INTERVALS,
    NOON,
    READY,
    snapshot,
    state_after,
    synced,
)

WITHOUT_EVENTS = snapshot(follows_events=False)
CANNOT_RECONCILE = snapshot(follows_events=False, can_reconcile=False)
HOUR = timedelta(hours=1)
DUE = NOON + INTERVALS.reconcile


def advance(
    state: LifecycleState, *outcomes: StepOutcome, now: datetime, jitter: float = 1
) -> LifecycleState:
    for outcome in outcomes:
        state = next_state(state, outcome, INTERVALS, now, jitter=jitter)
    return state


def test_columns_are_added_just_before_the_next_reconciling_run() -> None:
    state = advance(state_after(*READY), synced("r2", outdated=True), now=NOON + HOUR)
    assert state.reconcile_due == DUE
    # Not earlier: an upgrade adds fields to all pipelines at once.
    assert decide(state, WITHOUT_EVENTS, NOON + 2 * HOUR) == Sync(run_id="", reconciles=False)
    assert decide(state, WITHOUT_EVENTS, DUE) == SetUp(renews=True)
    state = advance(state, SetupSucceeded(etag="a", renews=True), now=DUE)
    assert decide(state, WITHOUT_EVENTS, DUE) == Sync(run_id="", reconciles=True)
    part = synced("r3", reconciles=True, has_more=True, finished=False, outdated=True)
    state = advance(state, part, now=DUE)
    assert decide(state, WITHOUT_EVENTS, DUE) == Sync(run_id="r3", reconciles=True)
    state = advance(state, synced("r3", reconciles=True, renewed=True), now=DUE)
    assert (state.outdated, state.columns_due) == (False, False)
    assert next_due(state, WITHOUT_EVENTS, DUE) == DUE + INTERVALS.read
    assert status(state, WITHOUT_EVENTS) == (PIPELINE_STATUS_READY, "")


def test_a_reconciling_run_that_meets_new_fields_first_is_followed_by_a_setup() -> None:
    state = advance(state_after(*READY), synced("r2", reconciles=True, renewed=True), now=DUE)
    assert decide(state, WITHOUT_EVENTS, DUE) == SetUp(renews=True)
    state = advance(state, SetupSucceeded(etag="a", renews=True), now=DUE)
    assert next_due(state, WITHOUT_EVENTS, DUE) == DUE + INTERVALS.read


def test_fields_added_during_a_reconciling_run_get_their_own_setup_and_run() -> None:
    state = advance(
        state_after(*READY),
        synced("r2", outdated=True),
        SetupSucceeded(etag="a", renews=True),
        synced("r3", reconciles=True, renewed=True, outdated=True),
        now=DUE,
    )
    assert (state.outdated, state.columns_due) == (True, True)
    assert decide(state, WITHOUT_EVENTS, DUE + INTERVALS.reconcile) == SetUp(renews=True)


def test_a_failed_renewal_stops_nothing_and_is_retried() -> None:
    state = advance(state_after(*READY), synced("r2", outdated=True), now=NOON)
    failed = StepFailed(kind=StepKind.SETUP, reason="not the owner", etag="a", renews=True)
    state = advance(state, failed, now=DUE)
    shown, reason = status(state, snapshot())
    assert shown == PIPELINE_STATUS_ERROR
    assert "setup failed once, to be tried again at" in reason
    assert "not the owner" in reason
    assert decide(state, snapshot(), DUE) == Poll()
    assert decide(state, WITHOUT_EVENTS, DUE) == Sync(run_id="", reconciles=True)
    state = advance(state, synced("r3", reconciles=True, renewed=True), now=DUE)
    assert status(state, WITHOUT_EVENTS)[0] == PIPELINE_STATUS_ERROR
    again = next_due(state, WITHOUT_EVENTS, DUE)
    assert again == DUE + INTERVALS.retry
    assert decide(state, WITHOUT_EVENTS, again) == SetUp(renews=True)
    state = advance(state, SetupSucceeded(etag="a", renews=True), now=again)
    assert status(state, WITHOUT_EVENTS) == (PIPELINE_STATUS_READY, "")


def test_a_change_of_the_pipeline_adds_the_columns_as_well() -> None:
    state = advance(
        state_after(*READY), synced("r2", outdated=True), SetupSucceeded(etag="b"), now=NOON
    )
    state = advance(state, synced("r3", outdated=True), now=NOON)
    assert (state.outdated, state.columns_due) == (True, False)
    assert decide(state, snapshot(etag="b", follows_events=False), DUE) == (
        Sync(run_id="", reconciles=True)
    )


@pytest.mark.parametrize("jitter", [0, 0.25, 1])
def test_connectors_that_cannot_reconcile_read_again_within_the_interval(
    jitter: float,
) -> None:
    # The pipeline has run for a year without any reconciling run.
    now = NOON + timedelta(days=365)
    outdated = synced("r2", outdated=True, can_reconcile=False)
    state = advance(state_after(*READY), outdated, now=now, jitter=jitter)
    due = now + INTERVALS.reconcile * jitter
    assert state.reconcile_due == due
    # The delay applies once, not with each run.
    state = advance(state, outdated, now=now, jitter=1)
    assert state.reconcile_due == due
    assert decide(state, CANNOT_RECONCILE, due) == SetUp(renews=True)
    state = advance(state, SetupSucceeded(etag="a", renews=True), now=due)
    assert decide(state, CANNOT_RECONCILE, due) == Sync(run_id="", reconciles=True)
    done = synced("r3", reconciles=True, renewed=True, can_reconcile=False)
    state = advance(state, done, now=due)
    assert decide(state, CANNOT_RECONCILE, due + INTERVALS.read) == Sync(
        run_id="", reconciles=False
    )
    late = due + 2 * INTERVALS.reconcile
    assert decide(state, CANNOT_RECONCILE, late) == Sync(run_id="", reconciles=False)
