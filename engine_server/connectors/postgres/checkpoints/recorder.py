"""The checkpoints of one write on their way into their lines."""

from collections import OrderedDict, deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from secrets import randbelow

from engine_server.connectors.postgres.checkpoints.lines import GLOBAL, INPUTS, MovedLines
from engine_server.connectors.postgres.checkpoints.moves import (
    Move,
    files_script,
    lock_script,
    moves_script,
    rows_script,
)
from engine_server.connectors.postgres.tables import Table
from pipesync.v1.message_pb2 import Message
from pipesync.v1.state_pb2 import CheckpointPosition

# A request that pushes inputs begins no epoch, and one that its caller gave up may still commit. By
# steps of a random size no two of them give one number to different inputs.
_STEPS = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pending:
    """A checkpoint that waits for its line.

    Attributes:
        place: That of its message among all messages.
        number: The checkpoint's number.
        checkpoint: Its JSON text; None for the end of inputs.
        stream_schema: As ``StateCheckpoint.stream_schema``.
        excluded: The streams that it does not account for.
    """

    place: int
    number: int
    checkpoint: str | None
    stream_schema: str = ""
    excluded: frozenset[str] = frozenset()


class CheckpointRecorder:
    """Says which lines a transaction moves, and which checkpoints are recorded.

    A line is moved by a transaction with which every record before the checkpoint is committed, and
    by one transaction at a time. Of two flushes that bring rows of one stream, the one that commits
    last therefore records what lies behind both, whichever began first: neither waits.

    Args:
        schema: The schema of the lines.
        tables: The tables that are written to.
        lines: Those that are moved; None to move none, and note only that tables have rows.
        files: As ``MovedLines`` has them, where no lines are moved.
    """

    def __init__(
        self,
        schema: str,
        tables: Collection[Table],
        lines: MovedLines | None = None,
        *,
        files: Mapping[str, int | None] | None = None,
    ) -> None:
        self._schema = schema
        self._tables = {one.stream: one for one in tables}
        self._lines = lines
        self._files = lines.files if lines is not None else files or {}
        positions = lines.positions if lines is not None else {}
        self._epochs = {name: position.epoch for name, position in positions.items()}
        self._last_numbers = {name: position.number for name, position in positions.items()}
        self._committed = dict(self._last_numbers)
        self._pending: dict[str, deque[_Pending]] = {}
        # Of all that are pending; they rise.
        self._places: OrderedDict[int, None] = OrderedDict()
        # By the transaction that moves them.
        self._moves: dict[int, Mapping[str, Move]] = {}
        self._filled = set(lines.filled) if lines is not None else set()
        # Each with the place from which on it fails.
        self._errored: dict[str, int] = {}

    def take(self, message: Message, place: int) -> Message:
        """Return the message as it is to leave: a checkpoint with its position."""
        if message.stream_status.HasField("errored"):
            self.fail(message.stream_status.stream, place)
        is_inputs_end = message.HasField("inputs_end")
        name = INPUTS if is_inputs_end else message.source_state.stream
        if not (is_inputs_end or message.HasField("source_state")) or name not in self._epochs:
            return message
        numbered = Message()
        numbered.CopyFrom(message)
        number = self._last_numbers[name] + (1 + randbelow(_STEPS) if is_inputs_end else 1)
        pending = _Pending(
            place=place,
            number=number,
            checkpoint=None if is_inputs_end else message.source_state.data,
            stream_schema=message.source_state.stream_schema,
            excluded=frozenset(message.source_state.excluded_streams),
        )
        if name == GLOBAL and not self._errored.keys() <= pending.excluded:
            # The engine drops it, as it accounts for records that are not written.
            return message
        self._last_numbers[name] = number
        position = CheckpointPosition(epoch=self._epochs[name], number=number)
        if is_inputs_end:
            numbered.inputs_end.position.CopyFrom(position)
        else:
            numbered.source_state.position.CopyFrom(position)
        self._pending.setdefault(name, deque()).append(pending)
        self._places[place] = None
        return numbered

    def fail(self, stream: str, place: int) -> None:
        """Move the line of ``stream`` no further than to this place."""
        if stream in self._errored:
            return
        self._errored[stream] = place
        for name in (stream, GLOBAL):
            kept: deque[_Pending] = deque()
            for pending in self._pending.get(name, ()):
                if pending.place < place or (name == GLOBAL and stream in pending.excluded):
                    kept.append(pending)
                else:
                    del self._places[pending.place]
            self._pending[name] = kept

    @property
    def first_place(self) -> int | None:
        """The place of the first checkpoint that is not recorded; None when all are."""
        return next(iter(self._places), None)

    def is_due(self, uncommitted: Mapping[str, int]) -> bool:
        """Whether lines could be moved now, without any rows.

        Args:
            uncommitted: The place of each stream's first record that is not committed.
        """
        return bool(self._places) and bool(self._movable(uncommitted))

    def script(self, number: int, written: Collection[str], uncommitted: Mapping[str, int]) -> str:
        """SQL for a transaction to end with; empty when it has nothing to record.

        Args:
            number: The transaction's. Asked again, when it is tried again, it may move more.
            written: The streams whose rows it writes.
            uncommitted: For each stream, the place of its first record that is committed neither
                before the transaction nor by it.
        """
        self._moves.pop(number, None)
        moves = self._movable(uncommitted)
        self._moves[number] = moves
        begun = sorted(name for name in written if name not in self._filled)
        parts = [rows_script(self._schema, self._tables[name]) for name in begun]
        looked_into = sorted(name for name in written if name in self._files)
        parts.append(
            files_script([(self._tables[name], self._files[name]) for name in looked_into])
        )
        if moves and (lines := self._lines) is not None:
            given = (self._schema, lines.account_id, lines.lineage)
            parts.insert(0, lock_script(*given, {*begun, *moves}))
            parts.append(
                moves_script(self._schema, lines.account_id, lines.lineage, moves.values())
            )
        return "".join(parts)

    def record(self, number: int, filled: Collection[str]) -> None:
        """Note that the transaction is committed.

        Args:
            number: The transaction's.
            filled: The streams of which it wrote rows that stay.
        """
        for name, move in self._moves.pop(number, {}).items():
            self._committed[name] = move.number
            pending = self._pending[name]
            while pending and pending[0].number <= move.number:
                del self._places[pending.popleft().place]
        self._filled.update(filled)

    def _movable(self, uncommitted: Mapping[str, int]) -> dict[str, Move]:
        being_moved = {name for moves in self._moves.values() for name in moves}
        first = min(uncommitted.values(), default=None)
        moves = {}
        for name in sorted(self._pending.keys() - being_moved):
            bound = first if name in (GLOBAL, INPUTS) else uncommitted.get(name)
            reached = [
                pending for pending in self._pending[name] if bound is None or pending.place < bound
            ]
            if reached:
                schemas = [pending.stream_schema for pending in reached if pending.stream_schema]
                moves[name] = Move(
                    stream=name,
                    epoch=self._epochs[name],
                    committed=self._committed[name],
                    number=reached[-1].number,
                    checkpoint=reached[-1].checkpoint,
                    stream_schema=schemas[-1] if schemas else "",
                )
        return moves
