"""Actions that a step of a continuous pipeline may take."""

from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias


@dataclass(frozen=True, slots=True, kw_only=True)
class SetUp:
    """Set up both connectors.

    Attributes:
        renews: Whether they were set up before, and streams have gained fields since.
    """

    renews: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Sync:
    """Make the next request of a run.

    Attributes:
        run_id: The run under way; empty to begin one.
        reconciles: Whether the run reads and compares all records. If the connectors cannot
            compare, it reads the outdated streams again.
    """

    run_id: str
    reconciles: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Poll:
    """Read the events since the previous poll."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Do nothing.

    Attributes:
        until: When the next action is due; None if only a change of the pipeline makes one due.
    """

    until: datetime | None


Action: TypeAlias = SetUp | Sync | Poll | Wait
