"""Callers that pass states in and store the results, as the engine and the service do."""

from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from contextlib import aclosing
from typing import Any

from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.protocols import ResumeRequest, ResumeResult, SelectedStream
from pipesync.v1.message_pb2 import InputsEnd, Message
from pipesync.v1.state_pb2 import SyncState
from tests.engine_server.connectors.postgres.builders import DESTINATION
from tests.engine_server.stages.sequences import given

ACCOUNT = "acct_1"


def inputs_end() -> Message:
    """Return the message at the end of pushed inputs."""
    return Message(inputs_end=InputsEnd())


class Caller:
    """Calls the destination, and keeps the state of one pipeline.

    Attributes:
        state: The state that it would store.
        seen: The messages of the last request, without logs and counts.
    """

    def __init__(
        self, config: PostgresConfig, *streams: SelectedStream, account: str = ACCOUNT
    ) -> None:
        self._account = account
        self._config = config
        self._streams = streams
        self.state = SyncState()
        self.seen: list[Message] = []

    @property
    def config(self) -> PostgresConfig:
        """The destination's configuration."""
        return self._config

    @property
    def streams(self) -> Sequence[SelectedStream]:
        """The selected streams."""
        return self._streams

    async def resume(
        self, *, advanced_streams: Collection[str] | None = None, **request: Any
    ) -> ResumeResult:
        """Compare the state, and adopt the outcome. Reads all streams by default."""
        names = [one.name for one in self._streams]
        resumed = await DESTINATION.resume(
            self._config,
            self._streams,
            ResumeRequest(
                account_id=self._account,
                state=self.copied(),
                advanced_streams=names if advanced_streams is None else advanced_streams,
                **{"advances_shared_checkpoint": True, **request},
            ),
        )
        take_over(self.state, resumed)
        return resumed

    async def write(
        self, resumed: ResumeResult, messages: Iterable[Message] | AsyncIterator[Message]
    ) -> list[Message]:
        """Write messages, store each checkpoint, and return all but logs and counts."""
        source = messages if isinstance(messages, AsyncIterator) else given(*messages)
        written = DESTINATION.write_resumed(self._config, self._streams, source, resumed)
        self.seen = []
        async with aclosing(written):
            async for message in written:
                if message.WhichOneof("payload") not in ("log", "rows_written", "rejected_records"):
                    self.seen.append(message)
                store(self.state, message)
        return self.seen

    async def write_some(
        self, resumed: ResumeResult, messages: AsyncIterator[Message], count: int
    ) -> None:
        """Write until a number of messages was yielded, and close the write."""
        written = DESTINATION.write_resumed(self._config, self._streams, messages, resumed)
        async with aclosing(written):
            while count and (message := await anext(written, None)) is not None:
                store(self.state, message)
                count -= 1

    async def sync(self, *messages: Message, **request: Any) -> ResumeResult:
        """Run one request: compare and write."""
        resumed = await self.resume(**request)
        await self.write(resumed, messages)
        return resumed

    def copied(self) -> SyncState:
        """Return a copy of the state, as a backup of the store has it."""
        copy = SyncState()
        copy.CopyFrom(self.state)
        return copy


def take_over(state: SyncState, resumed: ResumeResult) -> None:
    """Make ``state`` continue from the outcome of a comparison."""
    state.destination = resumed.destination
    state.positions.clear()
    for name, position in resumed.positions.items():
        state.positions[name].CopyFrom(position)
    state.ClearField("inputs_position")
    if resumed.inputs_position is not None:
        state.inputs_position.CopyFrom(resumed.inputs_position)
    for rewind in resumed.rewinds:
        if not rewind.stream:
            state.source.shared = rewind.checkpoint or ""
        elif rewind.checkpoint is None:
            state.source.streams.pop(rewind.stream, None)
            state.stream_schemas.pop(rewind.stream, None)
        else:
            state.source.streams[rewind.stream] = rewind.checkpoint
            state.stream_schemas[rewind.stream] = rewind.stream_schema


def store(state: SyncState, message: Message) -> None:
    """Store a checkpoint that the destination yielded, with its position."""
    if message.HasField("inputs_end"):
        state.inputs_position.CopyFrom(message.inputs_end.position)
    if not message.HasField("source_state"):
        return
    checkpoint = message.source_state
    if checkpoint.stream:
        state.source.streams[checkpoint.stream] = checkpoint.data
    else:
        state.source.shared = checkpoint.data
    state.positions.pop(checkpoint.stream, None)
    if checkpoint.HasField("position"):
        state.positions[checkpoint.stream].CopyFrom(checkpoint.position)
    if checkpoint.stream_schema:
        state.stream_schemas[checkpoint.stream] = checkpoint.stream_schema
