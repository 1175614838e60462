"""What may be done next with a pipeline that runs by itself."""

from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias


@dataclass(frozen=True, slots=True, kw_only=True)
class SetUp:
    """Have the connectors set up.

    Attributes:
        renews: They were before, and the streams have got new fields since.
    """

    renews: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Sync:
    """Have the next request of a run made.

    Attributes:
        run_id: Empty to begin one.
        reconciles: Whether the run reads everything again and compares it; where the connectors
            cannot compare, it reads the outdated streams again.
    """

    run_id: str
    reconciles: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Poll:
    """Have the events since the last time read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rest:
    """Do nothing.

    Attributes:
        until: None until somebody changes the pipeline.
    """

    until: datetime | None


Action: TypeAlias = SetUp | Sync | Poll | Rest
