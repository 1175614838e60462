"""Comparison of a request's state with the recorded checkpoints."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from engine_server.connectors.postgres.checkpoints.entries import (
    GLOBAL,
    INPUTS,
    NO_INPUTS,
    CheckpointEntry,
)
from engine_server.connectors.protocols import ResumeRequest, Rewind
from pipesync.v1.state_pb2 import CheckpointPosition, SyncState

_EMPTY = "its table in the database holds no rows, or was made anew"
_NO_LINE = "the database has no record of its checkpoint"
_OTHER = "the database holds another checkpoint of it: a backup was restored, perhaps"
_GLOBAL_LOST = "the database has no record of the checkpoint that all streams share"
_INPUTS_LOST = "events that were applied are missing in the database, and cannot be sent again"


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedState:
    """The recorded checkpoints and the state of the tables.

    Attributes:
        lineage_is_known: Whether the request's state names a lineage, so that its entries count.
        entries: The entries of that lineage by stream, without those of emptied tables.
        empty: The selected streams whose tables hold no rows.
        is_superseded: Whether another lineage of the account was written later.
    """

    lineage_is_known: bool
    entries: Mapping[str, CheckpointEntry]
    empty: Collection[str]
    is_superseded: bool = False


@dataclass(slots=True, kw_only=True)
class ComparisonResult:
    """The outcome of a comparison, and the entries that record it. See ``protocols.ResumeResult``.

    Attributes:
        entries: The entries to write, by stream.
        forgets_others: Whether the lineage's entries of streams that are not selected are deleted.
        rewinds: Rewinds by stream, in the order of the selection; the global checkpoint last.
        positions: Positions by stream.
        inputs_position: The position of the inputs; None for none.
        inputs_are_lost: Whether committed inputs are missing.
        lost_inputs_are_replayable: Whether the caller can send all missing inputs again.
        held_inputs: The last inputs position that is committed; None for none.
    """

    entries: dict[str, CheckpointEntry] = field(default_factory=dict)
    forgets_others: bool = False
    rewinds: dict[str, Rewind] = field(default_factory=dict)
    positions: dict[str, CheckpointPosition] = field(default_factory=dict)
    inputs_position: CheckpointPosition | None = None
    inputs_are_lost: bool = False
    lost_inputs_are_replayable: bool = False
    held_inputs: CheckpointPosition | None = None


def compare(
    request: ResumeRequest, selected: Sequence[str], recorded: RecordedState, *, epoch: str
) -> ComparisonResult:
    """Compare the state of ``request`` with the recorded checkpoints.

    Args:
        request: The request.
        selected: Names of the selected streams.
        recorded: The recorded checkpoints.
        epoch: A new epoch for the entries that the request moves.
    """
    return _Comparer(request, selected, recorded, epoch).outcome()


class _Comparer:
    def __init__(
        self, request: ResumeRequest, selected: Sequence[str], recorded: RecordedState, epoch: str
    ) -> None:
        self._request = request
        self._state: SyncState = request.state
        self._selected = selected
        self._recorded = recorded
        self._epoch = epoch
        self._done = ComparisonResult()

    def outcome(self) -> ComparisonResult:
        done = self._done
        self._compare_inputs()
        if not self._recorded.lineage_is_known:
            self._trust_older_version()
        names = [*self._selected, GLOBAL]
        for name in names:
            if rewind := self._rewind(name):
                done.rewinds[name] = rewind
        if GLOBAL in done.rewinds and done.rewinds[GLOBAL].checkpoint is None:
            self._read_all_again(_GLOBAL_LOST)
        if done.inputs_are_lost and not done.lost_inputs_are_replayable:
            self._read_all_again(_INPUTS_LOST)
        done.rewinds = {name: done.rewinds[name] for name in names if name in done.rewinds}
        moved = {
            *self._request.advanced_streams,
            *([GLOBAL] if self._request.advances_shared_checkpoint else []),
        }
        for name in names:
            if name in moved or name in done.rewinds:
                self._move(name)
        self._assign_positions()
        return done

    def _checkpoint(self, name: str) -> str | None:
        """Return the checkpoint in the state; None for none."""
        if name == GLOBAL:
            return self._state.source.shared or None
        return self._state.source.streams.get(name)

    def _position(self, name: str) -> CheckpointPosition | None:
        return self._state.positions.get(name)

    def _entry(self, name: str) -> CheckpointEntry | None:
        return self._done.entries.get(name) or self._recorded.entries.get(name)

    def _trust_older_version(self) -> None:
        """Create entries from an older version's checkpoints, except those of empty tables."""
        for name in [*self._state.source.streams, GLOBAL]:
            checkpoint = self._checkpoint(name)
            if checkpoint is not None and name not in self._recorded.empty:
                self._done.entries[name] = CheckpointEntry(
                    stream=name,
                    checkpoint=checkpoint,
                    stream_schema=self._state.stream_schemas.get(name, ""),
                    epoch=self._epoch,
                    number=0,
                    has_rows=name != GLOBAL,
                )

    def _rewind(self, name: str) -> Rewind | None:
        """Return the rewind of a stream; None when it continues from the state."""
        checkpoint, entry = self._checkpoint(name), self._entry(name)
        if checkpoint is None:
            return None
        is_empty = name in self._recorded.empty
        if entry is not None:
            # An equal text is the same checkpoint under any number.
            if entry.checkpoint == checkpoint or entry.holds(self._position(name)):
                return None
            if entry.checkpoint is not None:
                return Rewind(
                    stream=name,
                    reason=_OTHER,
                    checkpoint=entry.checkpoint,
                    stream_schema=entry.stream_schema,
                    is_empty=is_empty,
                )
        reason = _EMPTY if is_empty else _NO_LINE
        return Rewind(stream=name, reason=reason, checkpoint=None, is_empty=is_empty)

    def _read_all_again(self, reason: str) -> None:
        rewinds = self._done.rewinds
        for name in self._selected:
            if self._checkpoint(name) is None:
                continue
            if name not in rewinds or rewinds[name].checkpoint is not None:
                rewinds[name] = Rewind(
                    stream=name,
                    reason=reason,
                    checkpoint=None,
                    is_empty=name in self._recorded.empty,
                )
        self._done.forgets_others = True

    def _move(self, name: str) -> None:
        """Set the entry of ``name`` to the start of the request, in a new epoch."""
        entry, rewind = self._entry(name), self._done.rewinds.get(name)
        checkpoint, number, schema = self._checkpoint(name), 0, ""
        history = entry.past if entry is not None else ()
        if rewind is not None and rewind.checkpoint is None:
            # Earlier states must not count as current.
            checkpoint, history = None, ()
        elif entry is not None and rewind is not None:
            checkpoint, number, schema = entry.checkpoint, entry.number, entry.stream_schema
        elif entry is not None and checkpoint is not None:
            position = self._position(name)
            number = position.number if position and entry.holds(position) else entry.number
            schema = entry.stream_schema
        self._done.entries[name] = CheckpointEntry(
            stream=name,
            checkpoint=checkpoint,
            stream_schema=schema,
            epoch=self._epoch,
            number=number,
            history=history if entry is None or entry.epoch != self._epoch else entry.history,
            has_rows=self._has_rows(name, entry),
        )

    def _has_rows(self, name: str, entry: CheckpointEntry | None) -> bool:
        if name == GLOBAL:
            return False
        return name not in self._recorded.empty or (entry is not None and entry.has_rows)

    def _assign_positions(self) -> None:
        """Assign a position to each checkpoint of the new state."""
        known = {*self._selected, GLOBAL}
        positions = self._done.positions
        if self._recorded.lineage_is_known:
            for name, position in self._state.positions.items():
                if name not in known:
                    positions[name] = position
        for name in [*self._state.source.streams, GLOBAL]:
            entry, rewind = self._entry(name), self._done.rewinds.get(name)
            if entry is None or self._checkpoint(name) is None:
                continue
            if name in self._done.entries:
                if rewind is None or rewind.checkpoint is not None:
                    positions[name] = entry.position
            elif name in known:
                held = self._position(name)
                positions[name] = held if held and entry.holds(held) else entry.position

    def _compare_inputs(self) -> None:
        done, entry = self._done, self._recorded.entries.get(INPUTS)
        position = self._state.inputs_position if self._state.HasField("inputs_position") else None
        if not self._recorded.lineage_is_known or (position is not None and not position.number):
            position = None
        if entry is None and position is not None and position.number <= NO_INPUTS:
            # The lineage never had inputs, so none are lost with the entry.
            position = None
        if position is not None and (entry is None or not entry.holds(position)):
            done.inputs_are_lost = True
            replayable = self._request.replayable_inputs
            bound = entry.bound(replayable.epoch) if entry is not None and replayable else None
            if replayable is not None and bound is not None and replayable.number <= bound:
                done.lost_inputs_are_replayable = True
                done.held_inputs = CheckpointPosition(epoch=replayable.epoch, number=bound)
            elif entry is not None:
                done.held_inputs = entry.position
            # Later numbers belong to the lost inputs.
            entry = replace(
                entry or self._no_inputs(), epoch=self._epoch, history=entry.past if entry else ()
            )
            done.entries[INPUTS] = entry
        elif entry is None:
            # A position tells this state from one before its first inputs.
            entry = done.entries[INPUTS] = self._no_inputs()
        elif self._recorded.is_superseded:
            # This lineage has no entries for inputs of the other one: a state that a backup brings
            # back must not count as current.
            entry = done.entries[INPUTS] = replace(entry, epoch=self._epoch, history=entry.past)
        if entry is not None and entry.number:
            done.inputs_position = entry.position

    def _no_inputs(self) -> CheckpointEntry:
        return CheckpointEntry(
            stream=INPUTS, checkpoint=None, stream_schema="", epoch=self._epoch, number=NO_INPUTS
        )
