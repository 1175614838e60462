"""State machine of a continuous pipeline, with arbitrary outcomes in any order."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from pipesync.v1.pipeline_service_pb2 import (
    DESIRED_STATUS_ACTIVE,
    DESIRED_STATUS_DELETED,
    DESIRED_STATUS_PAUSED,
    PIPELINE_STATUS_BACKFILL,
    PIPELINE_STATUS_ERROR,
    PIPELINE_STATUS_PAUSED,
    PIPELINE_STATUS_READY,
    PIPELINE_STATUS_SETUP,
    PIPELINE_STATUS_TEARDOWN,
)
from service_server.lifecycle import machine
from service_server.lifecycle.actions import Action, Poll, SetUp, Sync, Wait
from service_server.lifecycle.machine import (
    Intervals,
    PipelineSnapshot,
    decide,
    next_due,
    next_state,
    status,
)
from service_server.lifecycle.outcomes import (
    Polled,
    SetupSucceeded,
    StepFailed,
    StepOutcome,
    Synced,
)
from service_server.lifecycle.state import LifecycleState, Phase, StepKind

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
INTERVALS = Intervals(
    step=timedelta(seconds=10),
    poll=timedelta(seconds=30),
    read=timedelta(hours=1),
    reconcile=timedelta(days=7),
    retry=timedelta(seconds=2),
    max_retry=timedelta(minutes=5),
)
MAX_DELAY = 12 * INTERVALS.max_retry

facts = st.builds(
    PipelineSnapshot,
    desired=st.sampled_from([DESIRED_STATUS_ACTIVE, DESIRED_STATUS_PAUSED, DESIRED_STATUS_DELETED]),
    etag=st.sampled_from(["a", "b"]),
    has_sync_state=st.booleans(),
    has_cursor=st.booleans(),
    follows_events=st.booleans(),
    can_reconcile=st.booleans(),
)
jitters = st.floats(0, 1)


def snapshot(**changes: object) -> PipelineSnapshot:
    """Return the snapshot of an active pipeline that follows events and can reconcile."""
    fields: dict[str, object] = {
        "desired": DESIRED_STATUS_ACTIVE,
        "etag": "a",
        "has_sync_state": True,
        "has_cursor": True,
        "follows_events": True,
        "can_reconcile": True,
    }
    return PipelineSnapshot(**(fields | changes))  # type: ignore[arg-type]  # any field


def synced(run_id: str = "r1", **changes: object) -> Synced:
    """Return the outcome of a request that finished a run."""
    fields: dict[str, object] = {
        "run_id": run_id,
        "reconciles": False,
        "has_more": False,
        "finished": True,
        "progressed": True,
        "failure": "",
    }
    return Synced(**(fields | changes))  # type: ignore[arg-type]  # any field


@st.composite
def outcomes_of(draw: st.DrawFn, action: Action, etag: str) -> StepOutcome:
    """Return any possible outcome of an action."""
    needs_change = draw(st.booleans())
    match action:
        case SetUp(renews=renews):
            if draw(st.booleans()):
                return SetupSucceeded(etag=etag, renews=renews)
            return StepFailed(
                kind=StepKind.SETUP,
                reason="no",
                needs_configuration_change=needs_change,
                etag=etag,
                renews=renews,
            )
        case Sync(run_id=run_id, reconciles=reconciles):
            if draw(st.booleans()):
                return StepFailed(
                    kind=StepKind.RUN,
                    reason="no",
                    needs_configuration_change=needs_change,
                )
            has_more = draw(st.booleans())
            failure = "" if has_more else draw(st.sampled_from(["", "no"]))
            return synced(
                run_id or draw(st.sampled_from(["r1", "r2"])),
                reconciles=reconciles,
                has_more=has_more,
                finished=not has_more and (not failure or draw(st.booleans())),
                progressed=draw(st.booleans()),
                failure=failure,
                outdated=draw(st.booleans()),
                renewed=draw(st.booleans()),
                can_reconcile=draw(st.booleans()),
            )
        case _:
            if draw(st.booleans()):
                return Polled(has_more=draw(st.booleans()), progressed=draw(st.booleans()))
            return StepFailed(
                kind=StepKind.POLL,
                reason="no",
                needs_configuration_change=needs_change,
                needs_run=draw(st.booleans()),
            )


@given(data=st.data(), snapshots=st.lists(st.tuples(facts, jitters), max_size=30))
def test_after_any_outcomes_an_active_pipeline_becomes_due_again(
    data: st.DataObject, snapshots: list[tuple[PipelineSnapshot, float]]
) -> None:
    state, now = LifecycleState(), NOON
    for one, jitter in snapshots:
        action = decide(state, one, now)
        due = next_due(state, one, now)
        if not isinstance(action, Wait):
            assert one.active
            assert due == now
            outcome = data.draw(outcomes_of(action, one.etag))
            state = next_state(state, outcome, INTERVALS, now, jitter=jitter)
        elif one.active:
            assert due is not None
            assert now < due <= now + max(INTERVALS.read, MAX_DELAY)
            assert not isinstance(decide(state, one, due), Wait) or (
                state.due.get(StepKind.INBOX) == due
            )
            now = due
        else:
            assert due is None
        assert LifecycleState.from_json(state.to_json()) == state
        now += timedelta(seconds=data.draw(st.integers(0, 100)))


@given(data=st.data(), jitters=st.lists(jitters, max_size=30))
def test_nothing_is_read_before_the_setup_of_the_current_configuration(
    data: st.DataObject, jitters: list[float]
) -> None:
    state, now = LifecycleState(), NOON
    set_up_for = ""
    for jitter in jitters:
        one = snapshot(etag=data.draw(st.sampled_from(["a", "b", "c"])))
        action = decide(state, one, now)
        if isinstance(action, Wait):
            now = next_due(state, one, now) or now
            continue
        if isinstance(action, Sync | Poll):
            assert set_up_for == one.etag
        outcome = data.draw(outcomes_of(action, one.etag))
        if isinstance(action, SetUp) and not action.renews:
            set_up_for = one.etag if isinstance(outcome, SetupSucceeded) else ""
        state = next_state(state, outcome, INTERVALS, now, jitter=jitter)


@given(data=st.data(), jitters=st.lists(jitters, max_size=30))
def test_an_unfinished_run_is_continued(data: st.DataObject, jitters: list[float]) -> None:
    state, now, under_way = LifecycleState(), NOON, None
    for jitter in jitters:
        one = snapshot(etag=data.draw(st.sampled_from(["a", "b"])))
        action = decide(state, one, now)
        if isinstance(action, Wait):
            now = next_due(state, one, now) or now
            continue
        outcome = data.draw(outcomes_of(action, one.etag))
        if isinstance(action, Sync) and under_way is not None:
            assert (action.run_id, action.reconciles) == under_way
        if isinstance(outcome, Synced):
            under_way = None if outcome.finished else (outcome.run_id, outcome.reconciles)
        state = next_state(state, outcome, INTERVALS, now, jitter=jitter)


def state_after(*outcomes: StepOutcome, now: datetime = NOON) -> LifecycleState:
    state = LifecycleState()
    for outcome in outcomes:
        state = next_state(state, outcome, INTERVALS, now, jitter=1)
    return state


READY = (SetupSucceeded(etag="a"), synced())


def test_a_pipeline_without_failures() -> None:
    state = LifecycleState()
    assert decide(state, snapshot(has_sync_state=False), NOON) == SetUp()
    assert status(state, snapshot())[0] == PIPELINE_STATUS_SETUP
    state = state_after(SetupSucceeded(etag="a"))
    assert decide(state, snapshot(has_sync_state=False), NOON) == Sync(run_id="", reconciles=False)
    assert status(state, snapshot())[0] == PIPELINE_STATUS_BACKFILL
    state = state_after(SetupSucceeded(etag="a"), synced(has_more=True, finished=False))
    assert decide(state, snapshot(), NOON) == Sync(run_id="r1", reconciles=False)
    state = state_after(*READY)
    assert status(state, snapshot()) == (PIPELINE_STATUS_READY, "")
    assert decide(state, snapshot(), NOON) == Wait(until=NOON + INTERVALS.poll)
    assert decide(state, snapshot(), NOON + INTERVALS.poll) == Poll()
    assert decide(state, snapshot(follows_events=False), NOON) == Wait(until=NOON + INTERVALS.read)
    without_events = snapshot(follows_events=False)
    later = NOON + INTERVALS.read
    assert decide(state, without_events, later) == Sync(run_id="", reconciles=False)
    later = NOON + INTERVALS.reconcile
    assert decide(state, without_events, later) == Sync(run_id="", reconciles=True)
    assert decide(state, snapshot(follows_events=False, can_reconcile=False), later) == (
        Sync(run_id="", reconciles=False)
    )


def test_events_are_read_between_the_requests_of_a_reconciling_run() -> None:
    state = state_after(*READY)
    later = NOON + INTERVALS.reconcile
    state = next_state(state, Polled(has_more=False, progressed=True), INTERVALS, later, jitter=1)
    assert decide(state, snapshot(), later) == Sync(run_id="", reconciles=True)
    part = synced("r2", reconciles=True, has_more=True, finished=False)
    state = next_state(state, part, INTERVALS, later, jitter=1)
    assert decide(state, snapshot(), later) == Sync(run_id="r2", reconciles=True)
    assert decide(state, snapshot(), later + INTERVALS.poll) == Poll()
    assert status(state, snapshot()) == (PIPELINE_STATUS_READY, "")
    state = next_state(state, synced("r2", reconciles=True), INTERVALS, later, jitter=1)
    assert state.reconcile_due == later + INTERVALS.reconcile


def test_an_inactive_pipeline_waits_until_that_changes() -> None:
    for desired, shown in (
        (DESIRED_STATUS_PAUSED, PIPELINE_STATUS_PAUSED),
        (DESIRED_STATUS_DELETED, PIPELINE_STATUS_TEARDOWN),
    ):
        one = snapshot(desired=desired, etag="other")
        assert decide(state_after(*READY), one, NOON) == Wait(until=None)
        assert status(state_after(*READY), one) == (shown, "")


def test_a_pipeline_without_its_sync_state_is_set_up_and_read_again() -> None:
    state = state_after(*READY)
    assert decide(state, snapshot(has_sync_state=False), NOON) == SetUp()
    state = next_state(state, SetupSucceeded(etag="a"), INTERVALS, NOON, jitter=1)
    assert decide(state, snapshot(has_sync_state=False), NOON) == Sync(run_id="", reconciles=False)


def test_delays_double_up_to_a_maximum_and_are_longer_if_only_a_change_helps() -> None:
    down = StepFailed(kind=StepKind.RUN, reason="down")
    wrong = StepFailed(kind=StepKind.RUN, reason="wrong", needs_configuration_change=True)
    state, seconds = state_after(SetupSucceeded(etag="a")), []
    for _ in range(10):
        state = next_state(state, down, INTERVALS, NOON, jitter=1)
        seconds.append((state.due[StepKind.RUN] - NOON).total_seconds())
    assert seconds == [2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
    halved = next_state(state_after(SetupSucceeded(etag="a")), down, INTERVALS, NOON, jitter=0)
    assert halved.due[StepKind.RUN] == NOON + timedelta(seconds=1)
    state = next_state(state_after(SetupSucceeded(etag="a")), wrong, INTERVALS, NOON, jitter=1)
    assert state.due[StepKind.RUN] == NOON + timedelta(seconds=24)
    assert status(state, snapshot()) == (
        PIPELINE_STATUS_ERROR,
        "sync failed once, to be tried again at 2026-01-01T12:00:24Z: wrong",
    )
    assert decide(state, snapshot(etag="b"), NOON) == SetUp()


RUN = Sync(run_id="r1", reconciles=False)


def test_a_request_without_progress_gets_more_time() -> None:
    state, limits = state_after(SetupSucceeded(etag="a")), []
    for _ in range(5):
        limits.append(machine.time_limit(state, RUN, INTERVALS) / INTERVALS.step)
        stalled = synced(has_more=True, finished=False, progressed=False)
        state = next_state(state, stalled, INTERVALS, NOON, jitter=1)
    assert limits == [1, 2, 4, 8, 8]
    state = next_state(state, synced(has_more=True, finished=False), INTERVALS, NOON, jitter=1)
    assert machine.time_limit(state, RUN, INTERVALS) == INTERVALS.step


def test_a_setup_gets_more_time_after_each_failure() -> None:
    state, limits = state_after(), []
    for _ in range(4):
        limits.append(machine.setup_time_limit(state, SetUp()))
        state = next_state(
            state, StepFailed(kind=StepKind.SETUP, reason="silent"), INTERVALS, NOON, jitter=1
        )
    assert limits == [30, 60, 120, 120]
    state = next_state(state, SetupSucceeded(etag="a"), INTERVALS, NOON, jitter=1)
    assert machine.setup_time_limit(state, SetUp()) == 30
    assert machine.setup_time_limit(state, SetUp(renews=True)) == 1800


def test_a_poll_without_progress_gets_more_time_independently_of_runs() -> None:
    state, limits = state_after(*READY), []
    for _ in range(5):
        limits.append(machine.time_limit(state, Poll(), INTERVALS) / INTERVALS.step)
        stalled = Polled(has_more=True, progressed=False)
        state = next_state(state, stalled, INTERVALS, NOON, jitter=1)
        assert decide(state, snapshot(), NOON) == Poll()
    assert limits == [1, 2, 4, 8, 8]
    assert machine.time_limit(state, RUN, INTERVALS) == INTERVALS.step
    state = next_state(state, Polled(has_more=True, progressed=True), INTERVALS, NOON, jitter=1)
    assert machine.time_limit(state, Poll(), INTERVALS) == INTERVALS.step


def test_a_request_without_progress_ends_no_failure() -> None:
    state = state_after(SetupSucceeded(etag="a"), StepFailed(kind=StepKind.RUN, reason="down"))
    stalled = synced(has_more=True, finished=False, progressed=False)
    state = next_state(state, stalled, INTERVALS, NOON, jitter=1)
    assert status(state, snapshot())[0] == PIPELINE_STATUS_ERROR
    assert decide(state, snapshot(), NOON) == RUN
    state = state_after(*READY, StepFailed(kind=StepKind.POLL, reason="down"))
    state = next_state(state, Polled(has_more=True, progressed=False), INTERVALS, NOON, jitter=1)
    assert status(state, snapshot())[0] == PIPELINE_STATUS_ERROR
    assert decide(state, snapshot(), NOON) == Poll()
    state = next_state(state, Polled(has_more=False, progressed=False), INTERVALS, NOON, jitter=1)
    assert status(state, snapshot()) == (PIPELINE_STATUS_READY, "")


def test_a_failed_stream_is_reported_until_a_run_succeeds_while_polls_go_on() -> None:
    state = state_after(SetupSucceeded(etag="a"), synced(failure="customers: refused"))
    assert state.phase is Phase.READY
    assert decide(state, snapshot(), NOON + timedelta(seconds=2)) == Sync(
        run_id="", reconciles=False
    )
    state = next_state(state, Polled(has_more=False, progressed=True), INTERVALS, NOON, jitter=1)
    assert status(state, snapshot())[0] == PIPELINE_STATUS_ERROR
    part = synced("r2", has_more=True, finished=False)
    state = next_state(state, part, INTERVALS, NOON, jitter=1)
    assert status(state, snapshot())[0] == PIPELINE_STATUS_ERROR
    state = next_state(state, synced("r2"), INTERVALS, NOON, jitter=1)
    assert status(state, snapshot()) == (PIPELINE_STATUS_READY, "")


def test_a_failed_request_is_forgotten_once_the_run_progresses() -> None:
    state = state_after(SetupSucceeded(etag="a"), StepFailed(kind=StepKind.RUN, reason="down"))
    state = next_state(state, synced(has_more=True, finished=False), INTERVALS, NOON, jitter=1)
    assert status(state, snapshot()) == (PIPELINE_STATUS_BACKFILL, "")
    assert decide(state, snapshot(), NOON) == Sync(run_id="r1", reconciles=False)


def test_events_that_cannot_be_read_start_reconciling_runs_at_growing_intervals() -> None:
    lost = StepFailed(
        kind=StepKind.POLL, reason="too old", needs_configuration_change=True, needs_run=True
    )
    state = state_after(*READY, lost)
    assert decide(state, snapshot(), NOON) == Sync(run_id="", reconciles=True)
    assert decide(state, snapshot(can_reconcile=False), NOON) == Sync(run_id="", reconciles=False)
    state = next_state(state, synced("r2", reconciles=True), INTERVALS, NOON, jitter=1)
    assert decide(state, snapshot(), NOON) == Poll()
    state = next_state(state, lost, INTERVALS, NOON, jitter=1)
    assert isinstance(decide(state, snapshot(), NOON), Wait)
    state = next_state(state, Polled(has_more=False, progressed=True), INTERVALS, NOON, jitter=1)
    assert status(state, snapshot()) == (PIPELINE_STATUS_READY, "")
