"""The machine when streams get new fields: columns are made and rows read again, each once."""

from datetime import datetime, timedelta

import pytest

from pipesync.v1.pipeline_service_pb2 import PIPELINE_STATUS_ERROR, PIPELINE_STATUS_READY
from service_server.lifecycle.actions import Poll, SetUp, Sync
from service_server.lifecycle.happenings import Failed, Happening, WasSetUp
from service_server.lifecycle.machine import after, decide, next_due, status
from service_server.lifecycle.memory import Memory, Work
from tests.service_server.lifecycle.test_machine import NOON, PACE, READY, known, lived, synced

WITHOUT_EVENTS = known(follows_events=False)
CANNOT = known(follows_events=False, can_reconcile=False)
HOUR = timedelta(hours=1)
DUE = NOON + PACE.reconcile


def then(memory: Memory, *happenings: Happening, now: datetime, jitter: float = 1) -> Memory:
    for happened in happenings:
        memory = after(memory, happened, PACE, now, jitter=jitter)
    return memory


def test_columns_are_made_right_before_the_reconcile_that_is_due_anyway() -> None:
    memory = then(lived(*READY), synced("r2", outdated=True), now=NOON + HOUR)
    assert memory.reconcile_due == DUE
    # Nothing happens before: an upgrade meets all pipelines at once.
    assert decide(memory, WITHOUT_EVENTS, NOON + 2 * HOUR) == Sync(run_id="", reconciles=False)
    assert decide(memory, WITHOUT_EVENTS, DUE) == SetUp(renews=True)
    memory = then(memory, WasSetUp(etag="a", renews=True), now=DUE)
    assert decide(memory, WITHOUT_EVENTS, DUE) == Sync(run_id="", reconciles=True)
    part = synced("r3", reconciles=True, has_more=True, finished=False, outdated=True)
    memory = then(memory, part, now=DUE)
    assert decide(memory, WITHOUT_EVENTS, DUE) == Sync(run_id="r3", reconciles=True)
    memory = then(memory, synced("r3", reconciles=True, renewed=True), now=DUE)
    assert (memory.outdated, memory.columns_due) == (False, False)
    assert next_due(memory, WITHOUT_EVENTS, DUE) == DUE + PACE.read
    assert status(memory, WITHOUT_EVENTS) == (PIPELINE_STATUS_READY, "")


def test_a_reconcile_that_meets_new_fields_first_is_followed_by_the_setup() -> None:
    memory = then(lived(*READY), synced("r2", reconciles=True, renewed=True), now=DUE)
    assert decide(memory, WITHOUT_EVENTS, DUE) == SetUp(renews=True)
    memory = then(memory, WasSetUp(etag="a", renews=True), now=DUE)
    assert next_due(memory, WITHOUT_EVENTS, DUE) == DUE + PACE.read


def test_fields_that_come_during_a_reconcile_get_their_own_setup_and_reconcile() -> None:
    memory = then(
        lived(*READY),
        synced("r2", outdated=True),
        WasSetUp(etag="a", renews=True),
        synced("r3", reconciles=True, renewed=True, outdated=True),
        now=DUE,
    )
    assert (memory.outdated, memory.columns_due) == (True, True)
    assert decide(memory, WITHOUT_EVENTS, DUE + PACE.reconcile) == SetUp(renews=True)


def test_a_setup_that_fails_stops_nothing_and_is_tried_until_it_is_done() -> None:
    memory = then(lived(*READY), synced("r2", outdated=True), now=NOON)
    failed = Failed(work=Work.SETUP, reason="not the owner", etag="a", renews=True)
    memory = then(memory, failed, now=DUE)
    shown, reason = status(memory, known())
    assert shown == PIPELINE_STATUS_ERROR
    assert "setup failed once, to be tried again at" in reason
    assert "not the owner" in reason
    assert decide(memory, known(), DUE) == Poll()
    assert decide(memory, WITHOUT_EVENTS, DUE) == Sync(run_id="", reconciles=True)
    memory = then(memory, synced("r3", reconciles=True, renewed=True), now=DUE)
    assert status(memory, WITHOUT_EVENTS)[0] == PIPELINE_STATUS_ERROR
    again = next_due(memory, WITHOUT_EVENTS, DUE)
    assert again == DUE + PACE.retry
    assert decide(memory, WITHOUT_EVENTS, again) == SetUp(renews=True)
    memory = then(memory, WasSetUp(etag="a", renews=True), now=again)
    assert status(memory, WITHOUT_EVENTS) == (PIPELINE_STATUS_READY, "")


def test_a_change_of_the_pipeline_makes_the_columns_as_well() -> None:
    memory = then(lived(*READY), synced("r2", outdated=True), WasSetUp(etag="b"), now=NOON)
    memory = then(memory, synced("r3", outdated=True), now=NOON)
    assert (memory.outdated, memory.columns_due) == (True, False)
    assert decide(memory, known(etag="b", follows_events=False), DUE) == (
        Sync(run_id="", reconciles=True)
    )


@pytest.mark.parametrize("jitter", [0, 0.25, 1])
def test_where_connectors_cannot_reconcile_rows_are_read_again_within_the_interval(
    jitter: float,
) -> None:
    # It ran for a year, and was never due for anything but new records.
    now = NOON + timedelta(days=365)
    outdated = synced("r2", outdated=True, can_reconcile=False)
    memory = then(lived(*READY), outdated, now=now, jitter=jitter)
    due = now + PACE.reconcile * jitter
    assert memory.reconcile_due == due
    # It is put off once, not with each run.
    memory = then(memory, outdated, now=now, jitter=1)
    assert memory.reconcile_due == due
    assert decide(memory, CANNOT, due) == SetUp(renews=True)
    memory = then(memory, WasSetUp(etag="a", renews=True), now=due)
    assert decide(memory, CANNOT, due) == Sync(run_id="", reconciles=True)
    done = synced("r3", reconciles=True, renewed=True, can_reconcile=False)
    memory = then(memory, done, now=due)
    assert decide(memory, CANNOT, due + PACE.read) == Sync(run_id="", reconciles=False)
    late = due + 2 * PACE.reconcile
    assert decide(memory, CANNOT, late) == Sync(run_id="", reconciles=False)
