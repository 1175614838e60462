"""State of a continuous pipeline's lifecycle, stored as JSON between steps.

The JSON keeps the keys of its first version, so that services of several versions can share a
database.
"""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Self

import msgspec


class Phase(StrEnum):
    """Progress of a pipeline; it may also be paused, deleted or failing in any phase."""

    SETUP = "setup"
    BACKFILL = "backfill"
    READY = "ready"


class StepKind(StrEnum):
    """Kind of a step. A pipeline's status reports the first kind, in this order, that fails."""

    SETUP = "setup"
    RUN = "sync"
    POLL = "poll"
    INBOX = "inbox"


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Failure of one kind of step.

    Attributes:
        consecutive_failures: Number of failures in a row.
        reason: Reason of the latest one, for people.
        needs_configuration_change: Whether a retry is unlikely to succeed before the configuration
            changes.
        persistent: Whether only a run that succeeds as a whole ends the failure, because a finished
            run had it.
    """

    consecutive_failures: int = msgspec.field(name="times")
    reason: str
    needs_configuration_change: bool = msgspec.field(default=False, name="by_configuration")
    persistent: bool = msgspec.field(default=False, name="lasts")


class LifecycleState(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a pipeline's next step has to know about the steps before it.

    Attributes:
        phase: Progress of the pipeline.
        etag: Etag of the pipeline at its latest setup, whether or not that succeeded.
        run_id: Id of the run under way; empty between runs.
        reconciles: Whether that run reconciles.
        has_sync_state: Whether a step since the latest setup has stored a sync state. If that is
            missing later, a teardown removed it together with the tables.
        stalls: Number of requests of runs in a row that were cut short without progress.
        poll_stalls: Number of such polls in a row.
        due: When each kind of step is due next. A missing kind is due now, except a run in READY.
        reconcile_due: When the next reconciling run is due; None before the first run has finished.
        failures: The latest failure of each kind of step that has not succeeded since.
        outdated: Whether, by the latest run, streams have fields that their history was read
            without.
        columns_due: Whether the destination still has to be set up for these fields.
    """

    phase: Phase = Phase.SETUP
    etag: str = ""
    run_id: str = ""
    reconciles: bool = False
    has_sync_state: bool = msgspec.field(default=False, name="has_state")
    stalls: int = 0
    poll_stalls: int = 0
    due: Mapping[StepKind, datetime] = msgspec.field(default_factory=dict)
    reconcile_due: datetime | None = None
    failures: Mapping[StepKind, Failure] = msgspec.field(default_factory=dict, name="troubles")
    outdated: bool = False
    columns_due: bool = False

    @classmethod
    def from_json(cls, text: str | None) -> Self:
        """Return the state that ``to_json`` encoded; the initial state for None."""
        return msgspec.json.decode(text, type=cls) if text is not None else cls()

    def to_json(self) -> str:
        """Return the state as it is stored."""
        return msgspec.json.encode(self).decode()
