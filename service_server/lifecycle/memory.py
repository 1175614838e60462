"""What has to be remembered of a pipeline that runs by itself, from one step to the next."""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Self

import msgspec


class Phase(StrEnum):
    """How far a pipeline has come; being paused, deleted or in trouble comes on top."""

    SETUP = "setup"
    BACKFILL = "backfill"
    READY = "ready"


class Work(StrEnum):
    """What a step can be about; the first one that is in trouble is told first."""

    SETUP = "setup"
    RUN = "sync"
    POLL = "poll"
    INBOX = "inbox"


class Trouble(msgspec.Struct, frozen=True, kw_only=True):
    """Work that does not succeed.

    Attributes:
        times: How often it failed in a row.
        reason: Why it failed last, for a person.
        by_configuration: Whether trying again hardly helps before somebody changes something.
        lasts: Of a run that was gone through: only one that succeeds as a whole ends the trouble.
    """

    times: int
    reason: str
    by_configuration: bool = False
    lasts: bool = False


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """What a pipeline's next step has to know of those before it.

    Attributes:
        phase: How far it has come.
        etag: Of the pipeline as it was last set up, or when that was last tried.
        run_id: Of the run under way; empty between runs.
        reconciles: Whether that run does.
        has_state: A step since the last setup has stored a state: were it gone, so would the tables
            be.
        stalls: How many requests of runs in a row were cut before they brought anything.
        poll_stalls: How many requests for events were.
        due: When work is to be done next; what is absent is due now, but for a run in READY.
        reconcile_due: When the next run is to reconcile; None before the first run has ended.
        troubles: The work that does not succeed.
        outdated: Streams have fields that their history was not read with, said the latest run.
        columns_due: The destination has not been set up for these fields yet.
    """

    phase: Phase = Phase.SETUP
    etag: str = ""
    run_id: str = ""
    reconciles: bool = False
    has_state: bool = False
    stalls: int = 0
    poll_stalls: int = 0
    due: Mapping[Work, datetime] = msgspec.field(default_factory=dict)
    reconcile_due: datetime | None = None
    troubles: Mapping[Work, Trouble] = msgspec.field(default_factory=dict)
    outdated: bool = False
    columns_due: bool = False

    @classmethod
    def from_json(cls, text: str | None) -> Self:
        """What ``to_json`` made; a new memory of None."""
        return msgspec.json.decode(text, type=cls) if text is not None else cls()

    def to_json(self) -> str:
        """As it is stored."""
        return msgspec.json.encode(self).decode()
