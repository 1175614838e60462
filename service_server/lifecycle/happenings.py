"""What may come of an action, as far as the next one depends on it."""

from dataclasses import dataclass
from typing import TypeAlias

from service_server.lifecycle.memory import Work


@dataclass(frozen=True, slots=True, kw_only=True)
class WasSetUp:
    """A setup ended well.

    Attributes:
        etag: Of the pipeline as it was set up, with what the connectors changed of it.
        renews: It was set up before: what is going on goes on.
    """

    etag: str
    renews: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Synced:
    """A request of a run was answered.

    Attributes:
        run_id: Which run.
        reconciles: Whether it does.
        has_more: It was cut short.
        finished: Nothing of the run is left to do.
        progressed: It brought something.
        failure: Why the run failed; empty when it did not.
        stalled: Its time was over before it brought anything, and so often that it failed.
        outdated: Streams have fields that their history was not read with.
        renewed: Such streams were read again to the end.
        can_reconcile: Both connectors can.
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
    """Events were read.

    Attributes:
        has_more: There may be more of them.
        progressed: It brought something.
    """

    has_more: bool
    progressed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class InboxApplied:
    """What had come in was applied.

    Attributes:
        has_more: There may be more of it.
    """

    has_more: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """Work did not succeed.

    Attributes:
        work: Which.
        reason: Why, for a person.
        by_configuration: Whether trying again hardly helps before somebody changes something.
        needs_run: Of POLL: events cannot be followed from here, so a run must read what was missed.
        stalled: Of POLL: its time was over before it brought anything.
        etag: Of SETUP: the pipeline's that was to be set up.
        lasts: Of a run: it was gone through.
        renews: Of SETUP: the pipeline was set up before, and goes on as it was.
    """

    work: Work
    reason: str
    by_configuration: bool = False
    needs_run: bool = False
    stalled: bool = False
    etag: str = ""
    lasts: bool = False
    renews: bool = False


Happening: TypeAlias = WasSetUp | Synced | Polled | InboxApplied | Failed
