"""Decides where a request goes on from, by its state and by the recorded checkpoints."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from engine_server.connectors.postgres.checkpoints.lines import (
    GLOBAL,
    INPUTS,
    NO_INPUTS,
    Line,
)
from engine_server.connectors.protocols import ResumeRequest, Rewind
from pipesync.v1.state_pb2 import CheckpointPosition, SyncState

_EMPTY = "its table in the database holds no rows, or was made anew"
_NO_LINE = "the database has no record of its checkpoint"
_OTHER = "the database holds another checkpoint of it: a backup was restored, perhaps"
_GLOBAL_LOST = "the database has no record of the checkpoint that all streams share"
_INPUTS_LOST = "events that were applied are missing in the database, and cannot be sent again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """Facts that the database states.

    Attributes:
        lineage_is_known: Whether the state names a lineage, so that its lines count.
        lines: The lines of that lineage by stream, without those of emptied tables.
        empty: The selected streams whose tables hold no rows.
        is_overtaken: Whether another lineage of the account was written later.
    """

    lineage_is_known: bool
    lines: Mapping[str, Line]
    empty: Collection[str]
    is_overtaken: bool = False


@dataclass(slots=True, kw_only=True)
class Comparison:
    """An outcome: ``protocols.Resumed``, and the lines that record it.

    Attributes:
        lines: The lines to write, by stream.
        forgets_others: Whether the lineage's lines of streams that are not selected are dropped.
        rewinds: By stream, in the order of the selection; the global checkpoint last.
        positions: By stream.
        inputs_position: None for none.
        inputs_are_lost: Whether inputs are missing.
        lost_inputs_are_replayable: Whether the caller can send all of them again.
        held_inputs: The last inputs position that is held; None for none.
    """

    lines: dict[str, Line] = field(default_factory=dict)
    forgets_others: bool = False
    rewinds: dict[str, Rewind] = field(default_factory=dict)
    positions: dict[str, CheckpointPosition] = field(default_factory=dict)
    inputs_position: CheckpointPosition | None = None
    inputs_are_lost: bool = False
    lost_inputs_are_replayable: bool = False
    held_inputs: CheckpointPosition | None = None


def compare(
    request: ResumeRequest, selected: Sequence[str], recorded: Recorded, *, epoch: str
) -> Comparison:
    """Compare the state of ``request`` with what is recorded.

    Args:
        request: The request.
        selected: Names of the selected streams.
        recorded: What the database holds.
        epoch: A new epoch for the lines that the request moves.
    """
    return _Comparing(request, selected, recorded, epoch).outcome()


class _Comparing:
    def __init__(
        self, request: ResumeRequest, selected: Sequence[str], recorded: Recorded, epoch: str
    ) -> None:
        self._request = request
        self._state: SyncState = request.state
        self._selected = selected
        self._recorded = recorded
        self._epoch = epoch
        self._done = Comparison()

    def outcome(self) -> Comparison:
        done = self._done
        self._compare_inputs()
        if not self._recorded.lineage_is_known:
            self._vouch_for_older_version()
        names = [*self._selected, GLOBAL]
        for name in names:
            if rewind := self._rewind(name):
                done.rewinds[name] = rewind
        if GLOBAL in done.rewinds and done.rewinds[GLOBAL].checkpoint is None:
            self._read_all_again(_GLOBAL_LOST)
        if done.inputs_are_lost and not done.lost_inputs_are_replayable:
            self._read_all_again(_INPUTS_LOST)
        done.rewinds = {name: done.rewinds[name] for name in names if name in done.rewinds}
        moved = {*self._request.reads, *([GLOBAL] if self._request.moves_global else [])}
        for name in names:
            if name in moved or name in done.rewinds:
                self._move(name)
        self._place()
        return done

    def _checkpoint(self, name: str) -> str | None:
        """The state's; None for none."""
        if name == GLOBAL:
            return getattr(self._state.source, "global") or None
        return self._state.source.streams.get(name)

    def _position(self, name: str) -> CheckpointPosition | None:
        return self._state.positions.get(name)

    def _line(self, name: str) -> Line | None:
        return self._done.lines.get(name) or self._recorded.lines.get(name)

    def _vouch_for_older_version(self) -> None:
        """An older version's checkpoints become lines, but for those of empty tables."""
        for name in [*self._state.source.streams, GLOBAL]:
            checkpoint = self._checkpoint(name)
            if checkpoint is not None and name not in self._recorded.empty:
                self._done.lines[name] = Line(
                    stream=name,
                    checkpoint=checkpoint,
                    stream_schema=self._state.stream_schemas.get(name, ""),
                    epoch=self._epoch,
                    number=0,
                    has_rows=name != GLOBAL,
                )

    def _rewind(self, name: str) -> Rewind | None:
        """How the stream goes back; None when it goes on from the state."""
        checkpoint, line = self._checkpoint(name), self._line(name)
        if checkpoint is None:
            return None
        is_empty = name in self._recorded.empty
        if line is not None:
            # The same text says the same, whichever number it has.
            if line.checkpoint == checkpoint or line.holds(self._position(name)):
                return None
            if line.checkpoint is not None:
                return Rewind(
                    stream=name,
                    reason=_OTHER,
                    checkpoint=line.checkpoint,
                    stream_schema=line.stream_schema,
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
        """Has the line of ``name`` say where the request goes on, in a new epoch."""
        line, rewind = self._line(name), self._done.rewinds.get(name)
        checkpoint, number, schema = self._checkpoint(name), 0, ""
        history = line.past if line is not None else ()
        if rewind is not None and rewind.checkpoint is None:
            # States of before must not be taken for as expected.
            checkpoint, history = None, ()
        elif line is not None and rewind is not None:
            checkpoint, number, schema = line.checkpoint, line.number, line.stream_schema
        elif line is not None and checkpoint is not None:
            position = self._position(name)
            number = position.number if position and line.holds(position) else line.number
            schema = line.stream_schema
        self._done.lines[name] = Line(
            stream=name,
            checkpoint=checkpoint,
            stream_schema=schema,
            epoch=self._epoch,
            number=number,
            history=history if line is None or line.epoch != self._epoch else line.history,
            has_rows=self._has_rows(name, line),
        )

    def _has_rows(self, name: str, line: Line | None) -> bool:
        if name == GLOBAL:
            return False
        return name not in self._recorded.empty or (line is not None and line.has_rows)

    def _place(self) -> None:
        """Give each checkpoint that the state has from now on its position."""
        known = {*self._selected, GLOBAL}
        positions = self._done.positions
        if self._recorded.lineage_is_known:
            for name, position in self._state.positions.items():
                if name not in known:
                    positions[name] = position
        for name in [*self._state.source.streams, GLOBAL]:
            line, rewind = self._line(name), self._done.rewinds.get(name)
            if line is None or self._checkpoint(name) is None:
                continue
            if name in self._done.lines:
                if rewind is None or rewind.checkpoint is not None:
                    positions[name] = line.position
            elif name in known:
                held = self._position(name)
                positions[name] = held if held and line.holds(held) else line.position

    def _compare_inputs(self) -> None:
        done, line = self._done, self._recorded.lines.get(INPUTS)
        position = self._state.inputs_position if self._state.HasField("inputs_position") else None
        if not self._recorded.lineage_is_known or (position is not None and not position.number):
            position = None
        if line is None and position is not None and position.number <= NO_INPUTS:
            # The lineage never had any, so that none of them are lost with the line.
            position = None
        if position is not None and (line is None or not line.holds(position)):
            done.inputs_are_lost = True
            replayable = self._request.replayable_inputs
            bound = line.bound(replayable.epoch) if line is not None and replayable else None
            if replayable is not None and bound is not None and replayable.number <= bound:
                done.lost_inputs_are_replayable = True
                done.held_inputs = CheckpointPosition(epoch=replayable.epoch, number=bound)
            elif line is not None:
                done.held_inputs = line.position
            # The numbers behind this one were given to what is lost.
            line = replace(
                line or self._no_inputs(), epoch=self._epoch, history=line.past if line else ()
            )
            done.lines[INPUTS] = line
        elif line is None:
            # Without a position, a state could not be told from one of before its first inputs.
            line = done.lines[INPUTS] = self._no_inputs()
        elif self._recorded.is_overtaken:
            # Inputs of the other lineage are in no line of this one: one that a backup brings back
            # must not be taken for as expected.
            line = done.lines[INPUTS] = replace(line, epoch=self._epoch, history=line.past)
        if line is not None and line.number:
            done.inputs_position = line.position

    def _no_inputs(self) -> Line:
        return Line(
            stream=INPUTS, checkpoint=None, stream_schema="", epoch=self._epoch, number=NO_INPUTS
        )
