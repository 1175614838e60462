"""Database in memory that correctly records checkpoints with its tables."""

import copy
import itertools
import json
import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from engine_server.connectors.protocols import ResumeRequest, ResumeResult, Rewind
from engine_server.errors import CheckpointsMoved
from pipesync.v1.state_pb2 import CheckpointPosition, SyncState

GLOBAL = ""
# A stream that none can be.
INPUTS = "\0inputs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One recorded checkpoint.

    Attributes:
        epoch: Name of the series of checkpoints.
        number: Sequence number within the epoch.
        checkpoint: The checkpoint; None for the start.
        schema: Text recorded with the checkpoint.
        history: Earlier epochs, each with the number at which the next one continues.
        has_rows: Whether rows were written to the table.
        written_at: Time of the last use.
    """

    epoch: str
    number: int = 0
    checkpoint: str | None = None
    schema: str = ""
    history: tuple[tuple[str, int], ...] = ()
    has_rows: bool = False
    written_at: int = 0

    @property
    def position(self) -> CheckpointPosition:
        return CheckpointPosition(epoch=self.epoch, number=self.number)

    def vouches_for(self, position: CheckpointPosition) -> bool:
        """Return whether all records before a position were committed here."""
        series = ((self.epoch, self.number), *self.history)
        return any(
            position.epoch == epoch and position.number <= number for epoch, number in series
        )

    def begin(self, checkpoint: str | None) -> "Line":
        """Start a new series of checkpoints from a position."""
        history = ((self.epoch, self.number), *self.history)[:20]
        return replace(self, epoch=new_epoch(), checkpoint=checkpoint, history=history)


Key = tuple[str, str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """Lines that a request advances, with their epochs."""

    account: str
    lineage: str
    epochs: dict[str, str]


@dataclass(kw_only=True)
class Database:
    """Tables and lines.

    Attributes:
        tables: The rows of each stream by id.
        lines: By account, lineage and stream.
    """

    tables: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    lines: dict[Key, Line] = field(default_factory=dict)
    _clock: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def dump(self) -> "Database":
        return Database(tables=copy.deepcopy(self.tables), lines=dict(self.lines))

    def restore(self, dump: "Database") -> None:
        self.tables, self.lines = copy.deepcopy(dump.tables), dict(dump.lines)

    def drop(self, stream: str) -> None:
        self.tables.pop(stream, None)

    def truncate(self, stream: str) -> None:
        if stream in self.tables:
            self.tables[stream].clear()

    def alive(self, stream: str) -> dict[str, dict[str, Any]]:
        """Return the rows that are not marked as deleted."""
        rows = self.tables.get(stream, {})
        return {name: row for name, row in rows.items() if not row.get("deleted")}

    def line(self, stream: str) -> Line:
        """Return the only line of a stream."""
        [line] = [line for (_, _, name), line in self.lines.items() if name == stream]
        return line

    def put(self, stream: str, records: Iterable[bytes]) -> None:
        """Write records, except over newer ones."""
        rows = self.tables.setdefault(stream, {})
        for record in map(json.loads, records):
            held = rows.get(record["id"])
            if held is None or held.get("_updated_at", 0) <= record.get("_updated_at", 0):
                rows[record["id"]] = record
        for key, line in self.lines.items():
            if key[2] == stream:
                self.lines[key] = replace(line, has_rows=True)

    def forget(self, stream: str) -> None:
        self.lines = {key: line for key, line in self.lines.items() if key[2] != stream}

    def moved(self, token: Token, stream: str, **changes: Any) -> CheckpointPosition:
        """Move a line to the next number, and return its position.

        Raises:
            CheckpointsMoved: It is gone, or of another epoch.
        """
        key = (token.account, token.lineage, stream)
        line = self.lines.get(key)
        if line is None or line.epoch != token.epochs.get(stream):
            raise CheckpointsMoved(f"the checkpoint of {stream!r} was moved by another request")
        self.lines[key] = replace(line, number=line.number + 1, **changes)
        return self.lines[key].position

    def resume(self, names: Sequence[str], request: ResumeRequest) -> ResumeResult:
        """Compare a state with the lines, as ``CheckpointKeeper.resume`` promises."""
        for name in names:
            if name not in self.tables:
                self.tables[name] = {}
                self.forget(name)
            elif not self.tables[name] and self._has_rows(name):
                self.forget(name)
        return _Comparison(self, names, request).resumed()

    def held(self, names: Sequence[str], account: str) -> list[str]:
        return [name for name in names if self.tables[name] and self._has_rows(name, account)]

    def now(self) -> int:
        return next(self._clock)

    def _has_rows(self, stream: str, account: str | None = None) -> bool:
        return any(
            line.has_rows
            for (owner, _, name), line in self.lines.items()
            if name == stream and account in (None, owner)
        )


class _Comparison:
    """One comparison of a state with the recorded checkpoints."""

    def __init__(self, database: Database, names: Sequence[str], request: ResumeRequest) -> None:
        self._database, self._names, self._request = database, names, request
        self._state: SyncState = request.state
        self._account = request.account_id
        self._is_older = not self._state.destination and bool(self._checkpoints())
        self._held = database.held(names, self._account)
        self._rewinds: dict[str, Rewind] = {}
        destination = self._state.destination
        self._lineage: str = (
            json.loads(destination)["lineage"] if destination else secrets.token_hex(4)
        )
        if destination:
            self._adopt()

    def resumed(self) -> ResumeResult:
        for name in self._names:
            self._compare(name)
        self._compare_global()
        inputs = self._compare_inputs()
        self._begin_series()
        for key, line in list(self._database.lines.items()):
            if key[:2] == (self._account, self._lineage):
                self._database.lines[key] = replace(line, written_at=self._database.now())
        kept = {
            name: line.position if name in self._moved else self._state.positions[name]
            for name, line in self._lines().items()
            if name in self._checkpoints() and self._has_checkpoint(name)
        }
        epochs = {
            name: line.epoch
            for name, line in self._lines().items()
            if name in self._moved or name == INPUTS
        }
        return ResumeResult(
            destination=json.dumps({"lineage": self._lineage}),
            positions=kept,
            rewinds=list(self._rewinds.values()),
            held_streams=self._held,
            write_token=Token(account=self._account, lineage=self._lineage, epochs=epochs),
            **inputs,
        )

    def _checkpoints(self) -> dict[str, str]:
        """Return the checkpoints of the state."""
        shared = self._state.source.shared
        return {**self._state.source.streams, **({GLOBAL: shared} if shared else {})}

    def _lines(self) -> dict[str, Line]:
        return {
            key[2]: line
            for key, line in self._database.lines.items()
            if key[:2] == (self._account, self._lineage)
        }

    def _has_checkpoint(self, name: str) -> bool:
        """Return whether the state has a checkpoint of a stream."""
        rewind = self._rewinds.get(name)
        return rewind is None or rewind.checkpoint is not None

    def _adopt(self) -> None:
        """Copy the lines of the most recently used lineage if this one has none."""
        own = {key: line for key, line in self._database.lines.items() if key[0] == self._account}
        if not own or self._lines():
            return
        latest = max(own, key=lambda key: own[key].written_at)[1]
        for (account, lineage, name), line in own.items():
            if lineage == latest:
                self._database.lines[account, self._lineage, name] = line

    def _compare(self, name: str) -> None:
        if name not in self._state.source.streams:
            return
        line = self._lines().get(name)
        if self._is_older:
            if not self._database.tables[name]:
                self._rewind(name, None, "its table holds no rows")
        elif line is None:
            self._rewind(name, None, "the destination has recorded nothing of it")
        elif not line.vouches_for(self._state.positions[name]):
            self._rewind(name, line, "the destination holds an older copy of it")

    def _compare_global(self) -> None:
        if GLOBAL not in self._checkpoints() or self._is_older:
            return
        line = self._lines().get(GLOBAL)
        if line is not None and line.vouches_for(self._state.positions[GLOBAL]):
            return
        self._rewind(GLOBAL, line, "the destination holds an older copy")
        if self._rewinds[GLOBAL].checkpoint is None:
            self._read_all_again("it is unknown which events the destination holds")

    def _compare_inputs(self) -> dict[str, Any]:
        line, key = self._lines().get(INPUTS), (self._account, self._lineage, INPUTS)
        position = self._state.inputs_position if self._state.HasField("inputs_position") else None
        if position is None:
            if line is None and self._request.pushes_inputs:
                line = self._database.lines[key] = Line(epoch=new_epoch())
            return {"inputs_position": line.position if line and line.number else None}
        if line is not None and line.vouches_for(position):
            return {"inputs_position": position}
        replayable = self._request.replayable_inputs
        is_replayable = (
            line is not None
            and replayable is not None
            and replayable.epoch == line.epoch
            and replayable.number <= line.number
        )
        if not is_replayable:
            self._read_all_again("the destination lacks events")
        held = line.position if line else None
        line = line.begin(None) if line else Line(epoch=new_epoch())
        self._database.lines[key] = line
        return {
            "inputs_position": line.position,
            "inputs_are_lost": True,
            "lost_inputs_are_replayable": is_replayable,
            "held_inputs": held,
        }

    def _read_all_again(self, reason: str) -> None:
        for name in self._names:
            if name in self._state.source.streams:
                self._rewind(name, None, reason)

    def _rewind(self, name: str, line: Line | None, reason: str) -> None:
        self._rewinds[name] = Rewind(
            stream=name,
            reason=reason,
            checkpoint=line.checkpoint if line else None,
            stream_schema=line.schema if line else "",
            is_empty=not self._database.tables.get(name),
        )

    @property
    def _moved(self) -> set[str]:
        moved = {*self._request.advanced_streams, *self._rewinds}
        if self._request.advances_shared_checkpoint:
            moved.add(GLOBAL)
        if self._is_older:
            moved.update(self._checkpoints())
        return moved

    def _begin_series(self) -> None:
        for name in self._moved:
            rewind = self._rewinds.get(name)
            checkpoint = rewind.checkpoint if rewind else self._checkpoints().get(name)
            line = self._lines().get(name)
            self._database.lines[self._account, self._lineage, name] = (
                line.begin(checkpoint)
                if line
                else Line(
                    epoch=new_epoch(),
                    checkpoint=checkpoint,
                    has_rows=bool(self._database.tables.get(name)),
                )
            )


def new_epoch() -> str:
    return secrets.token_hex(4)
