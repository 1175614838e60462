"""Entries of recorded checkpoints, and the lineage that a state names."""

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipesync.v1.state_pb2 import CheckpointPosition

# Stream names of the entries for the checkpoint that all streams share and for pushed inputs.
GLOBAL = ""
INPUTS = "(inputs)"
# Number of the inputs entry before the first inputs of its lineage.
NO_INPUTS = 1

# A state up to this many requests old is compared by epoch; an older one continues from the entry.
_MOST_EPOCHS = 20
_LINEAGE = "lineage"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointEntry:
    """The last recorded checkpoint of one stream: all records before it are committed.

    Attributes:
        stream: The stream's name, ``GLOBAL`` or ``INPUTS``.
        checkpoint: Its JSON text; None for the start.
        stream_schema: The schema in ``SyncState.stream_schemas`` at that time; empty for none.
        epoch: The series that the number belongs to.
        number: The checkpoint's number.
        history: Earlier epochs, newest first, each with a number: all records before the checkpoint
            of that number are committed, too.
        has_rows: Whether the stream's table has had rows since the entry was created.
    """

    stream: str
    checkpoint: str | None
    stream_schema: str
    epoch: str
    number: int
    history: tuple[tuple[str, int], ...] = ()
    has_rows: bool = False

    @property
    def position(self) -> CheckpointPosition:
        """The position of the checkpoint."""
        return CheckpointPosition(epoch=self.epoch, number=self.number)

    @property
    def past(self) -> tuple[tuple[str, int], ...]:
        """The history of an entry that replaces this one."""
        return ((self.epoch, self.number), *self.history)[:_MOST_EPOCHS]

    def bound(self, epoch: str) -> int | None:
        """Return the highest committed number of ``epoch``; None when it is unknown."""
        if epoch == self.epoch:
            return self.number
        return next((number for known, number in self.history if known == epoch), None)

    def holds(self, position: CheckpointPosition | None) -> bool:
        """Return whether all records before the checkpoint of ``position`` are committed."""
        bound = self.bound(position.epoch) if position is not None else None
        return position is not None and bound is not None and position.number <= bound


@dataclass(frozen=True, slots=True, kw_only=True)
class MovedEntries:
    """The entries that one write moves.

    Attributes:
        account_id: Their account.
        lineage: Their lineage.
        positions: Their positions by stream.
        filled: The streams whose entries state that their tables have rows.
        settling: Seconds until the streams may be read again.
        locked: The reason for each stream whose table could not be read because of a lock.
        files: See ``lost_rows.Emptiness``, as of the comparison of the entries.
    """

    account_id: str
    lineage: str
    positions: Mapping[str, CheckpointPosition] = field(default_factory=dict)
    filled: frozenset[str] = frozenset()
    settling: float = 0.0
    locked: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, int | None] = field(default_factory=dict)


def entry_of(row: Mapping[str, Any]) -> CheckpointEntry:
    """Return the entry in a row of the table."""
    return CheckpointEntry(
        stream=row["stream"],
        checkpoint=row["checkpoint"],
        stream_schema=row["stream_schema"],
        epoch=row["epoch"],
        number=row["number"],
        history=tuple((epoch, number) for epoch, number in json.loads(row["history"])),
        has_rows=row["has_rows"],
    )


def encoded_history(entry: CheckpointEntry) -> str:
    """Return the history as the table stores it."""
    return json.dumps(entry.history, separators=(",", ":"))


def new_name() -> str:
    """Return a random name for an epoch or a lineage."""
    return secrets.token_urlsafe(12)


def lineage_of(destination: str) -> str:
    """Return the lineage that ``SyncState.destination`` names; empty when it names none."""
    try:
        decoded = json.loads(destination) if destination else {}
    except (ValueError, RecursionError):
        return ""
    lineage = decoded.get(_LINEAGE) if isinstance(decoded, dict) else None
    return lineage if isinstance(lineage, str) else ""


def destination_of(lineage: str) -> str:
    """Return the ``SyncState.destination`` that names ``lineage``."""
    return json.dumps({_LINEAGE: lineage})
