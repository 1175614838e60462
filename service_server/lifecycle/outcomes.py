"""Outcomes of steps, reduced to the facts that the next step depends on."""

from dataclasses import dataclass
from typing import TypeAlias

from service_server.lifecycle.state import StepKind


@dataclass(frozen=True, slots=True, kw_only=True)
class SetupSucceeded:
    """A setup succeeded.

    Attributes:
        etag: Etag of the pipeline that was set up, with the connectors' changes to it.
        renews: Whether the pipeline was set up before and keeps its progress.
    """

    etag: str
    renews: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Synced:
    """The engine answered a request of a run.

    Attributes:
        run_id: Id of the run.
        reconciles: Whether the run reconciles.
        has_more: Whether the request was cut short.
        finished: Whether nothing of the run is left to do.
        progressed: Whether the next request begins further on.
        failure: Why the run failed; empty if it did not.
        stalled: Whether the run failed because too many requests in a row ended at their time limit
            without progress.
        outdated: Whether streams have fields that their history was read without.
        renewed: Whether such streams were read again to the end.
        can_reconcile: Whether both connectors can reconcile.
    """

    run_id: str
    reconciles: bool
    has_more: bool
    finished: bool
    progressed: bool
    failure: str
    stalled: bool = False
    outdated: bool = False
    renewed: bool = False
    can_reconcile: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Polled:
    """The engine answered a poll.

    Attributes:
        has_more: Whether more events may be available.
        progressed: Whether the next poll begins further on.
    """

    has_more: bool
    progressed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class InboxApplied:
    """Pending events of the inbox were applied.

    Attributes:
        has_more: Whether more of them may be pending.
    """

    has_more: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFailed:
    """A step failed.

    Attributes:
        kind: Kind of the step.
        reason: Reason of the failure, for people.
        needs_configuration_change: Whether a retry is unlikely to succeed before the configuration
            changes.
        needs_run: For POLL: whether events cannot be followed from here, so that a run has to read
            the changes that were missed.
        stalled: For POLL: whether too many polls in a row ended at their time limit without
            progress.
        etag: For SETUP: the etag of the pipeline that was to be set up.
        persistent: For RUN: whether the run finished with the failure.
        renews: For SETUP: whether the pipeline was set up before and keeps its progress.
    """

    kind: StepKind
    reason: str
    needs_configuration_change: bool = False
    needs_run: bool = False
    stalled: bool = False
    etag: str = ""
    persistent: bool = False
    renews: bool = False


StepOutcome: TypeAlias = SetupSucceeded | Synced | Polled | InboxApplied | StepFailed
