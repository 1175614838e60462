"""State machine of a continuous pipeline: the next action, and the next state after an outcome.

All functions are pure: the time and the jitter are arguments.

    setup ──▶ backfill ──▶ ready ⟲ events, a run at intervals, a reconciling run at longer ones
      ▲           │           │
      └───────────┴───────────┘  when the pipeline was changed, or its sync state was removed
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from msgspec.structs import replace

from pipesync.v1.pipeline_service_pb2 import DesiredStatus, PipelineStatus
from service_server.lifecycle.actions import Action, Poll, SetUp, Sync, Wait
from service_server.lifecycle.outcomes import (
    InboxApplied,
    Polled,
    SetupSucceeded,
    StepFailed,
    StepOutcome,
    Synced,
)
from service_server.lifecycle.state import Failure, LifecycleState, Phase, StepKind
from service_server.store.held_rejected import describe_held

# Time limits in seconds of the first setup and of later ones, which follow failures. A database
# that does not answer occupies a place among the concurrent steps for so long.
_SETUP_TIMEOUT = 30.0
_MAX_SETUP_TIMEOUT = 120.0
# Time limit in seconds of a setup that adds columns for new fields: it may rewrite large tables.
_RENEWAL_TIMEOUT = 1800.0
# A request that is cut short without progress doubles the time of the next one, this many times.
_MAX_STALLS = 3
# Factor of the retry delay where only a change of the configuration is likely to help.
_CONFIGURATION_FACTOR = 12
# The delay reaches its maximum long before this many doublings.
_MAX_DOUBLINGS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Intervals:
    """Intervals between steps, and the time limit of a step.

    Attributes:
        step: Time limit of one request, unless earlier ones were cut short without progress.
        poll: Interval between two polls.
        read: Interval between two runs of a source that does not follow events.
        reconcile: Interval between two reconciling runs.
        retry: Delay before the first retry; doubled before each further one.
        max_retry: Maximum of this delay.
    """

    step: timedelta
    poll: timedelta
    read: timedelta
    reconcile: timedelta
    retry: timedelta
    max_retry: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class RewoundRun:
    """A run that has to read rewound streams again.

    Attributes:
        run_id: Id of the run; empty if it has none.
        reconciles: Whether the run reconciles.
        reason: Why streams were rewound; may be empty.
    """

    run_id: str
    reconciles: bool
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineSnapshot:
    """Facts about a pipeline that do not come from its lifecycle's state.

    Attributes:
        desired: Status that the user wants.
        etag: Current etag of the pipeline.
        has_sync_state: Whether the pipeline has a sync state.
        has_cursor: Whether that has a checkpoint of all streams, from which polls continue.
        follows_events: Whether the source is configured to follow events.
        can_reconcile: Whether both connectors can reconcile.
        held_rejected_record_count: Number of rejected records that the destination holds.
        rewound: The run that has to read rewound streams again; None if there is none.
    """

    desired: DesiredStatus.ValueType
    etag: str
    has_sync_state: bool
    has_cursor: bool
    follows_events: bool
    can_reconcile: bool
    held_rejected_record_count: int = 0
    rewound: RewoundRun | None = None

    @property
    def active(self) -> bool:
        """Whether the user wants the pipeline to run."""
        return self.desired == DesiredStatus.DESIRED_STATUS_ACTIVE


def decide(state: LifecycleState, snapshot: PipelineSnapshot, now: datetime) -> Action:
    """Return the next action, which is to wait only if no other one is due."""
    if not snapshot.active:
        return Wait(until=None)
    if snapshot.etag != state.etag:
        return SetUp()
    if state.phase is Phase.SETUP or (state.has_sync_state and not snapshot.has_sync_state):
        setup_due = state.due.get(StepKind.SETUP)
        return SetUp() if _is_past(setup_due, now) else Wait(until=setup_due)
    run_due = state.due.get(StepKind.RUN)
    if state.phase is Phase.BACKFILL:
        return _sync(state, snapshot, now) if _is_past(run_due, now) else Wait(until=run_due)
    if snapshot.rewound is not None and _may_run(state, now):
        return Sync(run_id=snapshot.rewound.run_id, reconciles=snapshot.rewound.reconciles)
    # A poll needs a cursor to start from, which a run makes.
    polls = snapshot.follows_events and snapshot.has_cursor
    if polls and _is_past(state.due.get(StepKind.POLL), now):
        return Poll()
    if _wants_columns(state, now) and _is_past(state.due.get(StepKind.SETUP), now):
        return SetUp(renews=True)
    next_run = _next_run(state, snapshot)
    if next_run is not None and next_run <= now:
        return _sync(state, snapshot, now)
    dues = [next_run, state.due.get(StepKind.POLL) if polls else None]
    if _wants_columns(state, now):
        dues.append(state.due.get(StepKind.SETUP))
    return Wait(until=min((due for due in dues if due is not None), default=None))


def next_due(state: LifecycleState, snapshot: PipelineSnapshot, now: datetime) -> datetime | None:
    """Return when the next step is due; None if only a change of the pipeline makes one due."""
    match decide(state, snapshot, now):
        case Wait(until=until):
            dues = [until, state.due.get(StepKind.INBOX) if snapshot.active else None]
            return min((due for due in dues if due is not None), default=None)
        case _:
            return now


def may_apply_inbox(state: LifecycleState, snapshot: PipelineSnapshot, now: datetime) -> bool:
    """Return whether pending events of the inbox may be applied now."""
    is_set_up = state.phase is not Phase.SETUP and snapshot.etag == state.etag
    return snapshot.active and is_set_up and _is_past(state.due.get(StepKind.INBOX), now)


def time_limit(state: LifecycleState, action: Sync | Poll, intervals: Intervals) -> timedelta:
    """Return the time limit of a request: longer after requests of its kind without progress."""
    stalls = state.poll_stalls if isinstance(action, Poll) else state.stalls
    return intervals.step * float(2 ** min(stalls, _MAX_STALLS))


def setup_time_limit(state: LifecycleState, action: SetUp) -> float:
    """Return the time limit of a setup in seconds, which doubles with each failure in a row."""
    if action.renews:
        return _RENEWAL_TIMEOUT
    failure = state.failures.get(StepKind.SETUP)
    failures = failure.consecutive_failures if failure is not None else 0
    return float(min(_SETUP_TIMEOUT * 2 ** min(failures, _MAX_DOUBLINGS), _MAX_SETUP_TIMEOUT))


def next_state(
    state: LifecycleState,
    outcome: StepOutcome,
    intervals: Intervals,
    now: datetime,
    *,
    jitter: float,
) -> LifecycleState:
    """Return the next state after an outcome.

    Args:
        state: The state before the step.
        outcome: The outcome of the step.
        intervals: The intervals between steps.
        now: The current time.
        jitter: From 0 to 1: at which point of its second half a delay ends.
    """
    match outcome:
        case SetupSucceeded(renews=True):
            state = _without(state, StepKind.SETUP)
            return replace(state, etag=outcome.etag, columns_due=False)
        case SetupSucceeded():
            return replace(
                state,
                phase=Phase.BACKFILL,
                etag=outcome.etag,
                has_sync_state=False,
                due={},
                failures={},
                columns_due=False,
            )
        case Synced():
            return _after_sync(state, outcome, intervals, now, jitter)
        case Polled():
            stalled = outcome.has_more and not outcome.progressed
            # A poll without progress does not prove that a failure is over.
            done = state if stalled else _without(state, StepKind.POLL)
            done = replace(done, poll_stalls=_counted(state.poll_stalls, stalled))
            due = now if outcome.has_more else now + intervals.poll
            return _with_due(done, StepKind.POLL, due)
        case InboxApplied():
            done = _without(state, StepKind.INBOX)
            return _with_due(done, StepKind.INBOX, now) if outcome.has_more else done
        case StepFailed():
            return _after_failure(state, outcome, intervals, now, jitter)


def status(
    state: LifecycleState, snapshot: PipelineSnapshot
) -> tuple[PipelineStatus.ValueType, str]:
    """Return the pipeline's status, and a message for people; empty if there is none."""
    if snapshot.desired == DesiredStatus.DESIRED_STATUS_DELETED:
        return PipelineStatus.PIPELINE_STATUS_TEARDOWN, ""
    if not snapshot.active:
        return PipelineStatus.PIPELINE_STATUS_PAUSED, ""
    for kind in StepKind:
        if kind in state.failures:
            return PipelineStatus.PIPELINE_STATUS_ERROR, _failure_message(state, kind)
    if state.phase is Phase.READY and snapshot.rewound is not None:
        return PipelineStatus.PIPELINE_STATUS_BACKFILL, snapshot.rewound.reason
    return {
        Phase.SETUP: PipelineStatus.PIPELINE_STATUS_SETUP,
        Phase.BACKFILL: PipelineStatus.PIPELINE_STATUS_BACKFILL,
        Phase.READY: PipelineStatus.PIPELINE_STATUS_READY,
    }[state.phase], describe_held(snapshot.held_rejected_record_count)


def _next_run(state: LifecycleState, snapshot: PipelineSnapshot) -> datetime | None:
    """Return when a READY pipeline's next run is due; None if only a change makes one due."""
    run_due = state.due.get(StepKind.RUN)
    if state.run_id or StepKind.RUN in state.failures:
        return run_due
    if (snapshot.can_reconcile or state.outdated) and state.reconcile_due is not None:
        return min(state.reconcile_due, run_due or state.reconcile_due)
    return run_due


def _may_run(state: LifecycleState, now: datetime) -> bool:
    """Return whether a run may begin before it is due: not during the delay after a failure."""
    return StepKind.RUN not in state.failures or _is_past(state.due.get(StepKind.RUN), now)


def _sync(state: LifecycleState, snapshot: PipelineSnapshot, now: datetime) -> Sync:
    if state.run_id:
        return Sync(run_id=state.run_id, reconciles=state.reconciles)
    is_due = state.reconcile_due is not None and state.reconcile_due <= now
    return Sync(run_id="", reconciles=is_due and (snapshot.can_reconcile or state.outdated))


def _wants_columns(state: LifecycleState, now: datetime) -> bool:
    """Return whether to set up new fields now: just before they are read, and no earlier.

    An upgrade adds fields to all pipelines at once, and a new column may rewrite a large table.
    """
    is_read = state.reconciles or not state.outdated
    return state.columns_due and (is_read or _is_past(state.reconcile_due, now))


def _after_sync(
    state: LifecycleState, synced: Synced, intervals: Intervals, now: datetime, jitter: float
) -> LifecycleState:
    stalled = synced.stalled or (synced.has_more and not synced.progressed)
    state = replace(
        state,
        has_sync_state=True,
        run_id="" if synced.finished else synced.run_id,
        reconciles=synced.reconciles and not synced.finished,
        stalls=_counted(state.stalls, stalled),
    )
    state = _after_new_fields(state, synced, intervals, now, jitter)
    if synced.finished:
        state = _after_run(state, synced, intervals, now)
    if synced.failure:
        failed = StepFailed(kind=StepKind.RUN, reason=synced.failure, persistent=synced.finished)
        return _after_failure(state, failed, intervals, now, jitter)
    if synced.has_more:
        failure = state.failures.get(StepKind.RUN)
        if failure is not None and not failure.persistent and not stalled:
            state = _without(state, StepKind.RUN)
        return _with_due(state, StepKind.RUN, now)
    return state


def _after_new_fields(
    state: LifecycleState, synced: Synced, intervals: Intervals, now: datetime, jitter: float
) -> LifecycleState:
    """Return the next state with regard to fields that streams gained after they were read."""
    is_new = (synced.outdated or synced.renewed) and not state.outdated
    # Streams that are outdated after a complete read gained more fields during it.
    is_more = synced.outdated and synced.reconciles and synced.finished
    reconcile_due = state.reconcile_due
    if is_new and not synced.can_reconcile and _is_past(reconcile_due, now):
        # Until now this time had no effect, so all such pipelines are overdue: spread their runs.
        reconcile_due = now + intervals.reconcile * jitter
    return replace(
        state,
        outdated=synced.outdated,
        columns_due=state.columns_due or is_new or is_more,
        reconcile_due=reconcile_due,
    )


def _counted(stalls: int, stalled: bool) -> int:
    return min(stalls + 1, _MAX_STALLS) if stalled else 0


def _after_run(
    state: LifecycleState, synced: Synced, intervals: Intervals, now: datetime
) -> LifecycleState:
    """Return the next state after a finished run, which leaves failed streams to the next run."""
    reconcile_due = state.reconcile_due
    if reconcile_due is None or synced.reconciles:
        reconcile_due = now + intervals.reconcile
    done = state if synced.failure else _without(state, StepKind.RUN)
    due = {**done.due, StepKind.RUN: now + intervals.read}
    # The run read the changes that a failed poll missed, so polls continue at once.
    due[StepKind.POLL] = now if StepKind.POLL in done.failures else now + intervals.poll
    return replace(done, phase=Phase.READY, reconcile_due=reconcile_due, due=due)


def _after_failure(
    state: LifecycleState, failed: StepFailed, intervals: Intervals, now: datetime, jitter: float
) -> LifecycleState:
    before = state.failures.get(failed.kind)
    failure = Failure(
        consecutive_failures=before.consecutive_failures + 1 if before is not None else 1,
        reason=failed.reason,
        needs_configuration_change=failed.needs_configuration_change,
        persistent=failed.persistent or (before is not None and before.persistent),
    )
    delay = _retry_delay(failure, intervals, jitter)
    state = replace(state, failures={**state.failures, failed.kind: failure})
    state = _with_due(state, failed.kind, now + delay)
    if failed.stalled:
        state = replace(state, poll_stalls=_counted(state.poll_stalls, stalled=True))
    if failed.kind is StepKind.SETUP and not failed.renews:
        return replace(state, phase=Phase.SETUP, etag=failed.etag)
    if failed.needs_run:
        # Wait if the run after the previous failure did not help.
        run_due = now if failure.consecutive_failures == 1 else now + delay
        state = _with_due(state, StepKind.RUN, run_due)
        return replace(state, reconcile_due=min(state.reconcile_due or run_due, run_due))
    return state


def _retry_delay(failure: Failure, intervals: Intervals, jitter: float) -> timedelta:
    doublings = min(failure.consecutive_failures - 1, _MAX_DOUBLINGS)
    delay = min(intervals.retry * float(2**doublings), intervals.max_retry)
    factor = _CONFIGURATION_FACTOR if failure.needs_configuration_change else 1
    return delay * factor * (0.5 + jitter / 2)


def _failure_message(state: LifecycleState, kind: StepKind) -> str:
    failure, due = state.failures[kind], state.due.get(kind)
    count = failure.consecutive_failures
    times = "once" if count == 1 else f"{count} times in a row"
    again = f", to be tried again at {due:%Y-%m-%dT%H:%M:%SZ}" if due is not None else ""
    return f"{kind} failed {times}{again}: {failure.reason}"


def _without(state: LifecycleState, kind: StepKind) -> LifecycleState:
    """Return the state after a step of this kind succeeded."""
    return replace(
        state,
        due={one: due for one, due in state.due.items() if one is not kind},
        failures={one: failure for one, failure in state.failures.items() if one is not kind},
    )


def _with_due(state: LifecycleState, kind: StepKind, due: datetime) -> LifecycleState:
    return replace(state, due={**state.due, kind: due})


def _is_past(due: datetime | None, now: datetime) -> bool:
    return due is None or due <= now
