"""Destinations that record checkpoints with the rows they cover."""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from engine_server.connectors.interface.streams import ConfigT_contra, Messages, SelectedStream
from pipesync.v1.message_pb2 import Message
from pipesync.v1.state_pb2 import CheckpointPosition, SyncState


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeRequest:
    """State of a request, for a destination to compare with the checkpoints that it recorded.

    Attributes:
        account_id: Account at the source; empty when it has none.
        state: State that the request begins with. Its ``source`` may hold checkpoints of streams
            that are not selected.
        advanced_streams: Names of the streams whose checkpoints the request advances.
        advances_shared_checkpoint: Whether the request advances the shared checkpoint.
        pushes_inputs: Whether the request writes inputs whose end is to be recorded
            (``inputs_end``).
        replayable_inputs: Position after which the caller can send all inputs again; None when it
            keeps no inputs.
    """

    account_id: str
    state: SyncState
    advanced_streams: Collection[str]
    advances_shared_checkpoint: bool
    pushes_inputs: bool = False
    replayable_inputs: CheckpointPosition | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewind:
    """Stream whose records the destination does not hold up to the caller's checkpoint.

    Attributes:
        stream: Name of the stream; empty for the shared checkpoint.
        reason: One sentence that says why the stream is rewound.
        checkpoint: Recorded checkpoint to resume from; None to read from the start.
        stream_schema: The stream's entry in ``SyncState.stream_schemas`` when ``checkpoint`` was
            recorded; empty when there was none.
        is_empty: Whether the stream's table holds no rows. Rows that remain when a stream is read
            from the start may belong to records that were deleted since.
    """

    stream: str
    reason: str
    checkpoint: str | None
    stream_schema: str = ""
    is_empty: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeResult:
    """Outcome of ``CheckpointKeeper.resume``.

    Attributes:
        destination: The new ``SyncState.destination``.
        positions: The new ``SyncState.positions``, for all streams and the shared checkpoint.
        inputs_position: The new ``SyncState.inputs_position``; None for none.
        rewinds: Streams to rewind; empty when the destination holds all that the state expects.
        inputs_are_lost: Whether inputs are missing that the caller had committed.
        lost_inputs_are_replayable: Whether the caller can send all lost inputs again. If it cannot,
            every stream of the pipeline is among ``rewinds``.
        held_inputs: Last inputs position that the destination still holds; None for none.
        held_streams: For a state without any source checkpoint, and where ``rewinds`` is not empty,
            the selected streams of which the destination holds records of the account.
        write_token: Data for ``write_resumed``, opaque to the engine.
    """

    destination: str
    positions: Mapping[str, CheckpointPosition]
    inputs_position: CheckpointPosition | None
    rewinds: Sequence[Rewind]
    inputs_are_lost: bool = False
    lost_inputs_are_replayable: bool = False
    held_inputs: CheckpointPosition | None = None
    held_streams: Collection[str] = ()
    write_token: object = None


@runtime_checkable
class CheckpointKeeper(Protocol[ConfigT_contra]):
    """Destination that records each checkpoint in the transaction that writes the rows before it.

    Optional: with other destinations, the caller's state alone decides where a sync resumes.

    A recorded checkpoint is always true: the destination holds every record before it. The engine
    calls ``resume`` before the first record of each request is written, and then ``write_resumed``
    instead of ``write``.
    """

    async def resume(
        self,
        config: ConfigT_contra,
        streams: Sequence[SelectedStream],
        request: ResumeRequest,
    ) -> ResumeResult:
        """Compare the caller's state with the recorded checkpoints, and begin new epochs.

        Missing tables are created first, as ``write`` creates them. A state with an empty
        ``destination`` is new or comes from an older version: it starts a lineage. Raises the same
        errors as ``write``.
        """

    def write_resumed(
        self,
        config: ConfigT_contra,
        streams: Sequence[SelectedStream],
        messages: AsyncIterator[Message],
        resumed: ResumeResult,
    ) -> Messages:
        """Write as ``write`` does, and record each checkpoint before it is yielded.

        A ``source_state`` or ``inputs_end`` is yielded with its ``position`` set, once the position
        is committed.

        Raises:
            CheckpointsMoved: Another request took the recorded checkpoints over, or they were
                removed.
        """
