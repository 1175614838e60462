"""The life of a pipeline that runs by itself: what to do next, and what follows from what happened.

Nothing here waits, reads a clock or throws dice: the time and the jitter are handed in.

    setup ──▶ backfill ──▶ ready ⟲ events, now and then a run, now and then one that reconciles
      ▲           │           │
      └───────────┴───────────┘  whenever somebody changed the pipeline, or took its state away
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from msgspec.structs import replace

from pipesync.v1.pipeline_service_pb2 import DesiredStatus, PipelineStatus
from service_server.held_rejected import describe_held
from service_server.lifecycle.actions import Action, Poll, Rest, SetUp, Sync
from service_server.lifecycle.happenings import (
    Failed,
    Happening,
    InboxApplied,
    Polled,
    Synced,
    WasSetUp,
)
from service_server.lifecycle.memory import Memory, Phase, Trouble, Work

# Requests that bring nothing before they are cut get twice the time, so many times.
_MOST_STALLS = 3
# How much longer to wait where only a change of the configuration can help.
_CONFIGURATION_FACTOR = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often things are done.

    Attributes:
        step: The longest that one request may take, unless it brings nothing.
        poll: Between two requests for events.
        read: Between two runs, where the source does not follow events.
        reconcile: Between two runs that reconcile.
        retry: Before a second try; doubled before each further one.
        longest_retry: The most that comes to.
    """

    step: timedelta
    poll: timedelta
    read: timedelta
    reconcile: timedelta
    retry: timedelta
    longest_retry: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class RewoundRun:
    """A run whose streams went back, and are not read again yet.

    Attributes:
        run_id: Empty when it has none.
        reconciles: Whether it does.
        reason: Why streams went back; may be empty.
    """

    run_id: str
    reconciles: bool
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known of a pipeline besides its memory.

    Attributes:
        desired: What somebody wants it to do.
        etag: Of the pipeline now.
        has_state: Whether there is a state.
        has_cursor: Whether the state has a checkpoint of all streams, from which events are read.
        follows_events: Its source is configured to tell what happened.
        can_reconcile: Both of its connectors can.
        held_rejected_record_count: How many rejected records its destination keeps.
        rewound: The run that reads streams again because they went back; None when none is owed.
    """

    desired: DesiredStatus.ValueType
    etag: str
    has_state: bool
    has_cursor: bool
    follows_events: bool
    can_reconcile: bool
    held_rejected_record_count: int = 0
    rewound: RewoundRun | None = None

    @property
    def active(self) -> bool:
        """Whether it is to run."""
        return self.desired == DesiredStatus.DESIRED_STATUS_ACTIVE


def decide(memory: Memory, facts: Facts, now: datetime) -> Action:
    """What to do next. It rests only while nothing is due."""
    if not facts.active:
        return Rest(until=None)
    if facts.etag != memory.etag:
        return SetUp()
    if memory.phase is Phase.SETUP or (memory.has_state and not facts.has_state):
        setup_due = memory.due.get(Work.SETUP)
        return SetUp() if _is_past(setup_due, now) else Rest(until=setup_due)
    run_due = memory.due.get(Work.RUN)
    if memory.phase is Phase.BACKFILL:
        return _sync(memory, facts, now) if _is_past(run_due, now) else Rest(until=run_due)
    if facts.rewound is not None and _may_run(memory, now):
        return Sync(run_id=facts.rewound.run_id, reconciles=facts.rewound.reconciles)
    # Without a cursor a poll would have nothing to start from: a run makes one.
    polls = facts.follows_events and facts.has_cursor
    if polls and _is_past(memory.due.get(Work.POLL), now):
        return Poll()
    if _wants_columns(memory, now) and _is_past(memory.due.get(Work.SETUP), now):
        return SetUp(renews=True)
    next_run = _next_run(memory, facts)
    if next_run is not None and next_run <= now:
        return _sync(memory, facts, now)
    dues = [next_run, memory.due.get(Work.POLL) if polls else None]
    if _wants_columns(memory, now):
        dues.append(memory.due.get(Work.SETUP))
    return Rest(until=min((due for due in dues if due is not None), default=None))


def next_due(memory: Memory, facts: Facts, now: datetime) -> datetime | None:
    """When the next step is to be taken; None when only a change has one taken."""
    match decide(memory, facts, now):
        case Rest(until=until):
            dues = [until, memory.due.get(Work.INBOX) if facts.active else None]
            return min((due for due in dues if due is not None), default=None)
        case _:
            return now


def may_apply_inbox(memory: Memory, facts: Facts, now: datetime) -> bool:
    """Whether what has come in can be applied now."""
    is_set_up = memory.phase is not Phase.SETUP and facts.etag == memory.etag
    return facts.active and is_set_up and _is_past(memory.due.get(Work.INBOX), now)


def time_limit(memory: Memory, action: Sync | Poll, pace: Pace) -> timedelta:
    """How long a request may take: longer, when the last ones like it brought nothing."""
    stalls = memory.poll_stalls if isinstance(action, Poll) else memory.stalls
    return pace.step * float(2 ** min(stalls, _MOST_STALLS))


def after(
    memory: Memory, happened: Happening, pace: Pace, now: datetime, *, jitter: float
) -> Memory:
    """What is remembered once something happened.

    Args:
        memory: What was before.
        happened: What.
        pace: How often things are done.
        now: When.
        jitter: From 0 to 1: where in the latter half of its length a pause ends.
    """
    match happened:
        case WasSetUp(renews=True):
            return replace(_without(memory, Work.SETUP), etag=happened.etag, columns_due=False)
        case WasSetUp():
            return replace(
                memory,
                phase=Phase.BACKFILL,
                etag=happened.etag,
                has_state=False,
                due={},
                troubles={},
                columns_due=False,
            )
        case Synced():
            return _after_sync(memory, happened, pace, now, jitter)
        case Polled():
            stalled = happened.has_more and not happened.progressed
            # What brings nothing does not show that a trouble is over.
            done = memory if stalled else _without(memory, Work.POLL)
            done = replace(done, poll_stalls=_counted(memory.poll_stalls, stalled))
            due = now if happened.has_more else now + pace.poll
            return _with_due(done, Work.POLL, due)
        case InboxApplied():
            done = _without(memory, Work.INBOX)
            return _with_due(done, Work.INBOX, now) if happened.has_more else done
        case Failed():
            return _after_failure(memory, happened, pace, now, jitter)


def status(memory: Memory, facts: Facts) -> tuple[PipelineStatus.ValueType, str]:
    """What people are told: what the pipeline is doing, and why when it is in trouble."""
    if facts.desired == DesiredStatus.DESIRED_STATUS_DELETED:
        return PipelineStatus.PIPELINE_STATUS_TEARDOWN, ""
    if not facts.active:
        return PipelineStatus.PIPELINE_STATUS_PAUSED, ""
    for work in Work:
        if work in memory.troubles:
            return PipelineStatus.PIPELINE_STATUS_ERROR, _told(memory, work)
    if memory.phase is Phase.READY and facts.rewound is not None:
        return PipelineStatus.PIPELINE_STATUS_BACKFILL, facts.rewound.reason
    return {
        Phase.SETUP: PipelineStatus.PIPELINE_STATUS_SETUP,
        Phase.BACKFILL: PipelineStatus.PIPELINE_STATUS_BACKFILL,
        Phase.READY: PipelineStatus.PIPELINE_STATUS_READY,
    }[memory.phase], describe_held(facts.held_rejected_record_count)


def _next_run(memory: Memory, facts: Facts) -> datetime | None:
    """When a pipeline that is ready runs again; None when only a change has it do so."""
    run_due = memory.due.get(Work.RUN)
    if memory.run_id or Work.RUN in memory.troubles:
        return run_due
    if (facts.can_reconcile or memory.outdated) and memory.reconcile_due is not None:
        return min(memory.reconcile_due, run_due or memory.reconcile_due)
    return run_due


def _may_run(memory: Memory, now: datetime) -> bool:
    """Whether a run may be made before its time: not within the pause after one that failed."""
    return Work.RUN not in memory.troubles or _is_past(memory.due.get(Work.RUN), now)


def _sync(memory: Memory, facts: Facts, now: datetime) -> Sync:
    if memory.run_id:
        return Sync(run_id=memory.run_id, reconciles=memory.reconciles)
    is_due = memory.reconcile_due is not None and memory.reconcile_due <= now
    return Sync(run_id="", reconciles=is_due and (facts.can_reconcile or memory.outdated))


def _wants_columns(memory: Memory, now: datetime) -> bool:
    """Whether setup is to make room for new fields: as they are about to be read, not before.

    An upgrade meets all pipelines at once, and a new column may have a large table written anew.
    """
    is_read = memory.reconciles or not memory.outdated
    return memory.columns_due and (is_read or _is_past(memory.reconcile_due, now))


def _after_sync(memory: Memory, synced: Synced, pace: Pace, now: datetime, jitter: float) -> Memory:
    stalled = synced.stalled or (synced.has_more and not synced.progressed)
    memory = replace(
        memory,
        has_state=True,
        run_id="" if synced.finished else synced.run_id,
        reconciles=synced.reconciles and not synced.finished,
        stalls=_counted(memory.stalls, stalled),
    )
    memory = _after_fields(memory, synced, pace, now, jitter)
    if synced.finished:
        memory = _after_run(memory, synced, pace, now)
    if synced.failure:
        failed = Failed(work=Work.RUN, reason=synced.failure, lasts=synced.finished)
        return _after_failure(memory, failed, pace, now, jitter)
    if synced.has_more:
        trouble = memory.troubles.get(Work.RUN)
        if trouble is not None and not trouble.lasts and not stalled:
            memory = _without(memory, Work.RUN)
        return _with_due(memory, Work.RUN, now)
    return memory


def _after_fields(
    memory: Memory, synced: Synced, pace: Pace, now: datetime, jitter: float
) -> Memory:
    """What follows from fields that were added to streams which had been read before."""
    is_new = (synced.outdated or synced.renewed) and not memory.outdated
    # What was read again to the end and is outdated still has got fields meanwhile.
    is_more = synced.outdated and synced.reconciles and synced.finished
    reconcile_due = memory.reconcile_due
    if is_new and not synced.can_reconcile and _is_past(reconcile_due, now):
        # Nothing was read again until now, so that this is long past for all pipelines alike.
        reconcile_due = now + pace.reconcile * jitter
    return replace(
        memory,
        outdated=synced.outdated,
        columns_due=memory.columns_due or is_new or is_more,
        reconcile_due=reconcile_due,
    )


def _counted(stalls: int, stalled: bool) -> int:
    return min(stalls + 1, _MOST_STALLS) if stalled else 0


def _after_run(memory: Memory, synced: Synced, pace: Pace, now: datetime) -> Memory:
    """A stream that failed is left to the next run; the others are followed from now on."""
    reconcile_due = memory.reconcile_due
    if reconcile_due is None or synced.reconciles:
        reconcile_due = now + pace.reconcile
    done = memory if synced.failure else _without(memory, Work.RUN)
    due = {**done.due, Work.RUN: now + pace.read}
    # Events that could not be followed are tried again at once.
    due[Work.POLL] = now if Work.POLL in done.troubles else now + pace.poll
    return replace(done, phase=Phase.READY, reconcile_due=reconcile_due, due=due)


def _after_failure(
    memory: Memory, failed: Failed, pace: Pace, now: datetime, jitter: float
) -> Memory:
    before = memory.troubles.get(failed.work)
    trouble = Trouble(
        times=before.times + 1 if before is not None else 1,
        reason=failed.reason,
        by_configuration=failed.by_configuration,
        lasts=failed.lasts or (before is not None and before.lasts),
    )
    pause = _pause(trouble, pace, jitter)
    memory = replace(memory, troubles={**memory.troubles, failed.work: trouble})
    memory = _with_due(memory, failed.work, now + pause)
    if failed.stalled:
        memory = replace(memory, poll_stalls=_counted(memory.poll_stalls, stalled=True))
    if failed.work is Work.SETUP and not failed.renews:
        return replace(memory, phase=Phase.SETUP, etag=failed.etag)
    if failed.needs_run:
        # Not at once when the one before did not help.
        run_due = now if trouble.times == 1 else now + pause
        memory = _with_due(memory, Work.RUN, run_due)
        return replace(memory, reconcile_due=min(memory.reconcile_due or run_due, run_due))
    return memory


def _pause(trouble: Trouble, pace: Pace, jitter: float) -> timedelta:
    # Beyond so many doublings the cap has long been reached.
    doubled = min(pace.retry * float(2 ** min(trouble.times - 1, 20)), pace.longest_retry)
    factor = _CONFIGURATION_FACTOR if trouble.by_configuration else 1
    return doubled * factor * (0.5 + jitter / 2)


def _told(memory: Memory, work: Work) -> str:
    trouble, due = memory.troubles[work], memory.due.get(work)
    again = f", to be tried again at {due:%Y-%m-%dT%H:%M:%SZ}" if due is not None else ""
    times = "once" if trouble.times == 1 else f"{trouble.times} times in a row"
    return f"{work} failed {times}{again}: {trouble.reason}"


def _without(memory: Memory, work: Work) -> Memory:
    """``work`` went well."""
    return replace(
        memory,
        due={one: due for one, due in memory.due.items() if one is not work},
        troubles={one: trouble for one, trouble in memory.troubles.items() if one is not work},
    )


def _with_due(memory: Memory, work: Work, due: datetime) -> Memory:
    return replace(memory, due={**memory.due, work: due})


def _is_past(due: datetime | None, now: datetime) -> bool:
    return due is None or due <= now
