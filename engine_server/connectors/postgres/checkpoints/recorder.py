"""Recorder that moves the checkpoints of one write into their entries."""

from collections import OrderedDict, deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from secrets import randbelow

from engine_server.connectors.postgres.checkpoints.entries import GLOBAL, INPUTS, MovedEntries
from engine_server.connectors.postgres.checkpoints.moves import (
    Move,
    files_script,
    lock_script,
    moves_script,
    rows_script,
)
from engine_server.connectors.postgres.schema.tables import Table
from pipesync.v1.message_pb2 import Message
from pipesync.v1.state_pb2 import CheckpointPosition

# A request that pushes inputs begins no epoch, and an abandoned request may still commit. Steps of
# a random size keep two requests from giving one number to different inputs.
_STEPS = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pending:
    """A checkpoint that is not recorded yet.

    Attributes:
        sequence_number: The sequence number of its message.
        number: The checkpoint's number.
        checkpoint: Its JSON text; None for the end of inputs.
        stream_schema: See ``StateCheckpoint.stream_schema``.
        excluded: The streams that it does not account for.
    """

    sequence_number: int
    number: int
    checkpoint: str | None
    stream_schema: str = ""
    excluded: frozenset[str] = frozenset()


class CheckpointRecorder:
    """Decides which entries a transaction moves, and tracks which checkpoints are recorded.

    A transaction moves an entry if every record before the checkpoint is committed with it or
    before it, and only one transaction at a time moves an entry. So of two flushes with rows of one
    stream, the one that commits last records the checkpoints behind both, in either order, and
    neither waits.

    Args:
        schema: The schema of the entries.
        tables: The tables that are written to.
        entries: The entries to move; None to record only that tables have rows.
        files: See ``lost_rows.Emptiness``; given where no entries are moved.
    """

    def __init__(
        self,
        schema: str,
        tables: Collection[Table],
        entries: MovedEntries | None = None,
        *,
        files: Mapping[str, int | None] | None = None,
    ) -> None:
        self._schema = schema
        self._tables = {one.stream: one for one in tables}
        self._entries = entries
        self._files = entries.files if entries is not None else files or {}
        positions = entries.positions if entries is not None else {}
        self._epochs = {name: position.epoch for name, position in positions.items()}
        self._last_numbers = {name: position.number for name, position in positions.items()}
        self._committed = dict(self._last_numbers)
        self._pending: dict[str, deque[_Pending]] = {}
        # Sequence numbers of all pending checkpoints, rising.
        self._sequence_numbers: OrderedDict[int, None] = OrderedDict()
        # Moves by the number of their transaction.
        self._moves: dict[int, Mapping[str, Move]] = {}
        self._filled = set(entries.filled) if entries is not None else set()
        # Failed streams, each with the sequence number of its failure.
        self._errored: dict[str, int] = {}

    def take(self, message: Message, sequence_number: int) -> Message:
        """Return the message to yield; a checkpoint gets its position."""
        if message.stream_status.HasField("errored"):
            self.fail(message.stream_status.stream, sequence_number)
        is_inputs_end = message.HasField("inputs_end")
        name = INPUTS if is_inputs_end else message.source_state.stream
        if not (is_inputs_end or message.HasField("source_state")) or name not in self._epochs:
            return message
        numbered = Message()
        numbered.CopyFrom(message)
        number = self._last_numbers[name] + (1 + randbelow(_STEPS) if is_inputs_end else 1)
        pending = _Pending(
            sequence_number=sequence_number,
            number=number,
            checkpoint=None if is_inputs_end else message.source_state.data,
            stream_schema=message.source_state.stream_schema,
            excluded=frozenset(message.source_state.excluded_streams),
        )
        if name == GLOBAL and not self._errored.keys() <= pending.excluded:
            # The engine drops the checkpoint: it accounts for records that are not written.
            return message
        self._last_numbers[name] = number
        position = CheckpointPosition(epoch=self._epochs[name], number=number)
        if is_inputs_end:
            numbered.inputs_end.position.CopyFrom(position)
        else:
            numbered.source_state.position.CopyFrom(position)
        self._pending.setdefault(name, deque()).append(pending)
        self._sequence_numbers[sequence_number] = None
        return numbered

    def fail(self, stream: str, sequence_number: int) -> None:
        """Drop the pending checkpoints of ``stream`` from this sequence number on."""
        if stream in self._errored:
            return
        self._errored[stream] = sequence_number
        for name in (stream, GLOBAL):
            kept: deque[_Pending] = deque()
            for pending in self._pending.get(name, ()):
                if pending.sequence_number < sequence_number or (
                    name == GLOBAL and stream in pending.excluded
                ):
                    kept.append(pending)
                else:
                    del self._sequence_numbers[pending.sequence_number]
            self._pending[name] = kept

    @property
    def first_sequence_number(self) -> int | None:
        """The sequence number of the first checkpoint that is not recorded; None when all are."""
        return next(iter(self._sequence_numbers), None)

    def is_due(self, uncommitted: Mapping[str, int]) -> bool:
        """Return whether entries could be moved now, in a transaction without rows.

        Args:
            uncommitted: The sequence number of the first uncommitted record of each stream.
        """
        return bool(self._sequence_numbers) and bool(self._movable(uncommitted))

    def script(self, number: int, written: Collection[str], uncommitted: Mapping[str, int]) -> str:
        """Return SQL for a transaction to commit with; empty when it has nothing to record.

        Args:
            number: The number of the transaction. A retry may move more entries.
            written: The streams whose rows it writes.
            uncommitted: By stream, the sequence number of the first record that is committed
                neither before the transaction nor by it.
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
        if moves and (entries := self._entries) is not None:
            given = (self._schema, entries.account_id, entries.lineage)
            parts.insert(0, lock_script(*given, {*begun, *moves}))
            parts.append(
                moves_script(self._schema, entries.account_id, entries.lineage, moves.values())
            )
        return "".join(parts)

    def record(self, number: int, filled: Collection[str]) -> None:
        """Mark the moves of a committed transaction as recorded.

        Args:
            number: The number of the transaction.
            filled: The streams whose tables have rows after it.
        """
        for name, move in self._moves.pop(number, {}).items():
            self._committed[name] = move.number
            pending = self._pending[name]
            while pending and pending[0].number <= move.number:
                del self._sequence_numbers[pending.popleft().sequence_number]
        self._filled.update(filled)

    def _movable(self, uncommitted: Mapping[str, int]) -> dict[str, Move]:
        being_moved = {name for moves in self._moves.values() for name in moves}
        first = min(uncommitted.values(), default=None)
        moves = {}
        for name in sorted(self._pending.keys() - being_moved):
            bound = first if name in (GLOBAL, INPUTS) else uncommitted.get(name)
            reached = [
                pending
                for pending in self._pending[name]
                if bound is None or pending.sequence_number < bound
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
