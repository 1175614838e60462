"""The machine alone: whatever happens, in whatever order, a pipeline goes on."""

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
from service_server.lifecycle.actions import Action, Poll, Rest, SetUp, Sync
from service_server.lifecycle.happenings import Failed, Happening, Polled, Synced, WasSetUp
from service_server.lifecycle.machine import Facts, Pace, after, decide, next_due, status
from service_server.lifecycle.memory import Memory, Phase, Work

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
PACE = Pace(
    step=timedelta(seconds=10),
    poll=timedelta(seconds=30),
    read=timedelta(hours=1),
    reconcile=timedelta(days=7),
    retry=timedelta(seconds=2),
    longest_retry=timedelta(minutes=5),
)
LONGEST_PAUSE = 12 * PACE.longest_retry

facts = st.builds(
    Facts,
    desired=st.sampled_from([DESIRED_STATUS_ACTIVE, DESIRED_STATUS_PAUSED, DESIRED_STATUS_DELETED]),
    etag=st.sampled_from(["a", "b"]),
    has_state=st.booleans(),
    has_cursor=st.booleans(),
    follows_events=st.booleans(),
    can_reconcile=st.booleans(),
)
jitters = st.floats(0, 1)


def known(**changes: object) -> Facts:
    """An active pipeline's that follows events and can reconcile."""
    fields: dict[str, object] = {
        "desired": DESIRED_STATUS_ACTIVE,
        "etag": "a",
        "has_state": True,
        "has_cursor": True,
        "follows_events": True,
        "can_reconcile": True,
    }
    return Facts(**(fields | changes))  # type: ignore[arg-type]  # any field


def synced(run_id: str = "r1", **changes: object) -> Synced:
    """A run that ended well."""
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
def what_comes_of(draw: st.DrawFn, action: Action, etag: str) -> Happening:
    """Anything that may come of an action."""
    by_configuration = draw(st.booleans())
    match action:
        case SetUp(renews=renews):
            if draw(st.booleans()):
                return WasSetUp(etag=etag, renews=renews)
            return Failed(
                work=Work.SETUP,
                reason="no",
                by_configuration=by_configuration,
                etag=etag,
                renews=renews,
            )
        case Sync(run_id=run_id, reconciles=reconciles):
            if draw(st.booleans()):
                return Failed(work=Work.RUN, reason="no", by_configuration=by_configuration)
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
            return Failed(
                work=Work.POLL,
                reason="no",
                by_configuration=by_configuration,
                needs_run=draw(st.booleans()),
            )


@given(data=st.data(), lives=st.lists(st.tuples(facts, jitters), max_size=30))
def test_whatever_happens_an_active_pipeline_is_due_again_and_only_then_is_there_something_to_do(
    data: st.DataObject, lives: list[tuple[Facts, float]]
) -> None:
    memory, now = Memory(), NOON
    for one, jitter in lives:
        action = decide(memory, one, now)
        due = next_due(memory, one, now)
        if not isinstance(action, Rest):
            assert one.active
            assert due == now
            happened = data.draw(what_comes_of(action, one.etag))
            memory = after(memory, happened, PACE, now, jitter=jitter)
        elif one.active:
            assert due is not None
            assert now < due <= now + max(PACE.read, LONGEST_PAUSE)
            assert not isinstance(decide(memory, one, due), Rest) or (
                memory.due.get(Work.INBOX) == due
            )
            now = due
        else:
            assert due is None
        assert Memory.from_json(memory.to_json()) == memory
        now += timedelta(seconds=data.draw(st.integers(0, 100)))


@given(data=st.data(), jitters=st.lists(jitters, max_size=30))
def test_nothing_is_read_before_the_setup_of_what_is_wanted_now(
    data: st.DataObject, jitters: list[float]
) -> None:
    memory, now = Memory(), NOON
    set_up_for = ""
    for jitter in jitters:
        one = known(etag=data.draw(st.sampled_from(["a", "b", "c"])))
        action = decide(memory, one, now)
        if isinstance(action, Rest):
            now = next_due(memory, one, now) or now
            continue
        if isinstance(action, Sync | Poll):
            assert set_up_for == one.etag
        happened = data.draw(what_comes_of(action, one.etag))
        if isinstance(action, SetUp) and not action.renews:
            set_up_for = one.etag if isinstance(happened, WasSetUp) else ""
        memory = after(memory, happened, PACE, now, jitter=jitter)


@given(data=st.data(), jitters=st.lists(jitters, max_size=30))
def test_a_run_that_was_begun_is_gone_on_with_until_it_is_finished(
    data: st.DataObject, jitters: list[float]
) -> None:
    memory, now, under_way = Memory(), NOON, None
    for jitter in jitters:
        one = known(etag=data.draw(st.sampled_from(["a", "b"])))
        action = decide(memory, one, now)
        if isinstance(action, Rest):
            now = next_due(memory, one, now) or now
            continue
        happened = data.draw(what_comes_of(action, one.etag))
        if isinstance(action, Sync) and under_way is not None:
            assert (action.run_id, action.reconciles) == under_way
        if isinstance(happened, Synced):
            under_way = None if happened.finished else (happened.run_id, happened.reconciles)
        memory = after(memory, happened, PACE, now, jitter=jitter)


def lived(*happenings: Happening, now: datetime = NOON) -> Memory:
    memory = Memory()
    for happened in happenings:
        memory = after(memory, happened, PACE, now, jitter=1)
    return memory


READY = (WasSetUp(etag="a"), synced())


def test_a_life_without_trouble() -> None:
    memory = Memory()
    assert decide(memory, known(has_state=False), NOON) == SetUp()
    assert status(memory, known())[0] == PIPELINE_STATUS_SETUP
    memory = lived(WasSetUp(etag="a"))
    assert decide(memory, known(has_state=False), NOON) == Sync(run_id="", reconciles=False)
    assert status(memory, known())[0] == PIPELINE_STATUS_BACKFILL
    memory = lived(WasSetUp(etag="a"), synced(has_more=True, finished=False))
    assert decide(memory, known(), NOON) == Sync(run_id="r1", reconciles=False)
    memory = lived(*READY)
    assert status(memory, known()) == (PIPELINE_STATUS_READY, "")
    assert decide(memory, known(), NOON) == Rest(until=NOON + PACE.poll)
    assert decide(memory, known(), NOON + PACE.poll) == Poll()
    assert decide(memory, known(follows_events=False), NOON) == Rest(until=NOON + PACE.read)
    without_events = known(follows_events=False)
    later = NOON + PACE.read
    assert decide(memory, without_events, later) == Sync(run_id="", reconciles=False)
    later = NOON + PACE.reconcile
    assert decide(memory, without_events, later) == Sync(run_id="", reconciles=True)
    assert decide(memory, known(follows_events=False, can_reconcile=False), later) == (
        Sync(run_id="", reconciles=False)
    )


def test_events_are_read_between_the_requests_of_a_run_that_reconciles() -> None:
    memory = lived(*READY)
    later = NOON + PACE.reconcile
    memory = after(memory, Polled(has_more=False, progressed=True), PACE, later, jitter=1)
    assert decide(memory, known(), later) == Sync(run_id="", reconciles=True)
    part = synced("r2", reconciles=True, has_more=True, finished=False)
    memory = after(memory, part, PACE, later, jitter=1)
    assert decide(memory, known(), later) == Sync(run_id="r2", reconciles=True)
    assert decide(memory, known(), later + PACE.poll) == Poll()
    assert status(memory, known()) == (PIPELINE_STATUS_READY, "")
    memory = after(memory, synced("r2", reconciles=True), PACE, later, jitter=1)
    assert memory.reconcile_due == later + PACE.reconcile


def test_a_pipeline_that_is_not_wanted_to_run_rests_until_that_changes() -> None:
    for desired, shown in (
        (DESIRED_STATUS_PAUSED, PIPELINE_STATUS_PAUSED),
        (DESIRED_STATUS_DELETED, PIPELINE_STATUS_TEARDOWN),
    ):
        one = known(desired=desired, etag="other")
        assert decide(lived(*READY), one, NOON) == Rest(until=None)
        assert status(lived(*READY), one) == (shown, "")


def test_a_pipeline_whose_state_was_taken_away_is_set_up_and_read_again() -> None:
    memory = lived(*READY)
    assert decide(memory, known(has_state=False), NOON) == SetUp()
    memory = after(memory, WasSetUp(etag="a"), PACE, NOON, jitter=1)
    assert decide(memory, known(has_state=False), NOON) == Sync(run_id="", reconciles=False)


def test_pauses_double_up_to_a_cap_and_are_longer_where_only_a_change_helps() -> None:
    down = Failed(work=Work.RUN, reason="down")
    wrong = Failed(work=Work.RUN, reason="wrong", by_configuration=True)
    memory, seconds = lived(WasSetUp(etag="a")), []
    for _ in range(10):
        memory = after(memory, down, PACE, NOON, jitter=1)
        seconds.append((memory.due[Work.RUN] - NOON).total_seconds())
    assert seconds == [2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
    halved = after(lived(WasSetUp(etag="a")), down, PACE, NOON, jitter=0)
    assert halved.due[Work.RUN] == NOON + timedelta(seconds=1)
    memory = after(lived(WasSetUp(etag="a")), wrong, PACE, NOON, jitter=1)
    assert memory.due[Work.RUN] == NOON + timedelta(seconds=24)
    assert status(memory, known()) == (
        PIPELINE_STATUS_ERROR,
        "sync failed once, to be tried again at 2026-01-01T12:00:24Z: wrong",
    )
    assert decide(memory, known(etag="b"), NOON) == SetUp()


RUN = Sync(run_id="r1", reconciles=False)


def test_a_request_that_brings_nothing_gets_more_time() -> None:
    memory, limits = lived(WasSetUp(etag="a")), []
    for _ in range(5):
        limits.append(machine.time_limit(memory, RUN, PACE) / PACE.step)
        stalled = synced(has_more=True, finished=False, progressed=False)
        memory = after(memory, stalled, PACE, NOON, jitter=1)
    assert limits == [1, 2, 4, 8, 8]
    memory = after(memory, synced(has_more=True, finished=False), PACE, NOON, jitter=1)
    assert machine.time_limit(memory, RUN, PACE) == PACE.step


def test_a_request_for_events_that_brings_nothing_gets_more_time_whatever_runs_do() -> None:
    memory, limits = lived(*READY), []
    for _ in range(5):
        limits.append(machine.time_limit(memory, Poll(), PACE) / PACE.step)
        stalled = Polled(has_more=True, progressed=False)
        memory = after(memory, stalled, PACE, NOON, jitter=1)
        assert decide(memory, known(), NOON) == Poll()
    assert limits == [1, 2, 4, 8, 8]
    assert machine.time_limit(memory, RUN, PACE) == PACE.step
    memory = after(memory, Polled(has_more=True, progressed=True), PACE, NOON, jitter=1)
    assert machine.time_limit(memory, Poll(), PACE) == PACE.step


def test_a_request_that_brings_nothing_ends_no_trouble() -> None:
    memory = lived(WasSetUp(etag="a"), Failed(work=Work.RUN, reason="down"))
    stalled = synced(has_more=True, finished=False, progressed=False)
    memory = after(memory, stalled, PACE, NOON, jitter=1)
    assert status(memory, known())[0] == PIPELINE_STATUS_ERROR
    assert decide(memory, known(), NOON) == RUN
    memory = lived(*READY, Failed(work=Work.POLL, reason="down"))
    memory = after(memory, Polled(has_more=True, progressed=False), PACE, NOON, jitter=1)
    assert status(memory, known())[0] == PIPELINE_STATUS_ERROR
    assert decide(memory, known(), NOON) == Poll()
    memory = after(memory, Polled(has_more=False, progressed=False), PACE, NOON, jitter=1)
    assert status(memory, known()) == (PIPELINE_STATUS_READY, "")


def test_a_stream_that_failed_is_told_until_a_run_succeeds_and_events_go_on_meanwhile() -> None:
    memory = lived(WasSetUp(etag="a"), synced(failure="customers: refused"))
    assert memory.phase is Phase.READY
    assert decide(memory, known(), NOON + timedelta(seconds=2)) == Sync(run_id="", reconciles=False)
    memory = after(memory, Polled(has_more=False, progressed=True), PACE, NOON, jitter=1)
    assert status(memory, known())[0] == PIPELINE_STATUS_ERROR
    part = synced("r2", has_more=True, finished=False)
    memory = after(memory, part, PACE, NOON, jitter=1)
    assert status(memory, known())[0] == PIPELINE_STATUS_ERROR
    memory = after(memory, synced("r2"), PACE, NOON, jitter=1)
    assert status(memory, known()) == (PIPELINE_STATUS_READY, "")


def test_an_interrupted_run_is_well_again_as_soon_as_it_goes_on() -> None:
    memory = lived(WasSetUp(etag="a"), Failed(work=Work.RUN, reason="down"))
    memory = after(memory, synced(has_more=True, finished=False), PACE, NOON, jitter=1)
    assert status(memory, known()) == (PIPELINE_STATUS_BACKFILL, "")
    assert decide(memory, known(), NOON) == Sync(run_id="r1", reconciles=False)


def test_events_that_cannot_be_followed_have_everything_read_again_at_growing_intervals() -> None:
    lost = Failed(work=Work.POLL, reason="too old", by_configuration=True, needs_run=True)
    memory = lived(*READY, lost)
    assert decide(memory, known(), NOON) == Sync(run_id="", reconciles=True)
    assert decide(memory, known(can_reconcile=False), NOON) == Sync(run_id="", reconciles=False)
    memory = after(memory, synced("r2", reconciles=True), PACE, NOON, jitter=1)
    assert decide(memory, known(), NOON) == Poll()
    memory = after(memory, lost, PACE, NOON, jitter=1)
    assert isinstance(decide(memory, known(), NOON), Rest)
    memory = after(memory, Polled(has_more=False, progressed=True), PACE, NOON, jitter=1)
    assert status(memory, known()) == (PIPELINE_STATUS_READY, "")
