"""A caller that hands states in and stores what comes back, as the engine and the service do."""

from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from contextlib import aclosing
from typing import Any

from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.destination import PostgresDestination
from engine_server.connectors.protocols import Resumed, ResumeRequest, SelectedStream
from pipesync.v1.message_pb2 import InputsEnd, Message
from pipesync.v1.state_pb2 import SyncState
from tests.engine_server.connectors.postgres.builders import given

ACCOUNT = "acct_1"


def inputs_end() -> Message:
    """The end of pushed inputs."""
    return Message(inputs_end=InputsEnd())


class Caller:
    """Keeps the state of one pipeline.

    Attributes:
        state: What it would store.
        seen: What the last request yielded, without logs and counts.
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

    async def resume(self, *, reads: Collection[str] | None = None, **request: Any) -> Resumed:
        """Compares the state, and takes the outcome over. Reads all streams unless told which."""
        names = [one.name for one in self._streams]
        resumed = await PostgresDestination().resume(
            self._config,
            self._streams,
            ResumeRequest(
                account_id=self._account,
                state=self.copied(),
                reads=names if reads is None else reads,
                **{"moves_global": True, **request},
            ),
        )
        take_over(self.state, resumed)
        return resumed

    async def write(
        self, resumed: Resumed, messages: Iterable[Message] | AsyncIterator[Message]
    ) -> list[Message]:
        """Writes, and stores each checkpoint as it passes. Answers all but logs and counts."""
        source = messages if isinstance(messages, AsyncIterator) else given(*messages)
        written = PostgresDestination().write_resumed(self._config, self._streams, source, resumed)
        self.seen = []
        async with aclosing(written):
            async for message in written:
                if message.WhichOneof("payload") not in ("log", "rows_written", "rejected_records"):
                    self.seen.append(message)
                store(self.state, message)
        return self.seen

    async def write_some(
        self, resumed: Resumed, messages: AsyncIterator[Message], count: int
    ) -> None:
        """Writes until so many messages have passed, and ends there."""
        written = PostgresDestination().write_resumed(
            self._config, self._streams, messages, resumed
        )
        async with aclosing(written):
            while count and (message := await anext(written, None)) is not None:
                store(self.state, message)
                count -= 1

    async def sync(self, *messages: Message, **request: Any) -> Resumed:
        """One request: compares and writes."""
        resumed = await self.resume(**request)
        await self.write(resumed, messages)
        return resumed

    def copied(self) -> SyncState:
        """A copy of the state, as an older copy of the store would have it later."""
        copy = SyncState()
        copy.CopyFrom(self.state)
        return copy


def take_over(state: SyncState, resumed: Resumed) -> None:
    """Has ``state`` go on from where a destination said."""
    state.destination = resumed.destination
    state.positions.clear()
    for name, position in resumed.positions.items():
        state.positions[name].CopyFrom(position)
    state.ClearField("inputs_position")
    if resumed.inputs_position is not None:
        state.inputs_position.CopyFrom(resumed.inputs_position)
    for rewind in resumed.rewinds:
        if not rewind.stream:
            setattr(state.source, "global", rewind.checkpoint or "")
        elif rewind.checkpoint is None:
            state.source.streams.pop(rewind.stream, None)
            state.stream_schemas.pop(rewind.stream, None)
        else:
            state.source.streams[rewind.stream] = rewind.checkpoint
            state.stream_schemas[rewind.stream] = rewind.stream_schema


def store(state: SyncState, message: Message) -> None:
    """Store a checkpoint that left the destination, with its position."""
    if message.HasField("inputs_end"):
        state.inputs_position.CopyFrom(message.inputs_end.position)
    if not message.HasField("source_state"):
        return
    checkpoint = message.source_state
    if checkpoint.stream:
        state.source.streams[checkpoint.stream] = checkpoint.data
    else:
        setattr(state.source, "global", checkpoint.data)
    state.positions.pop(checkpoint.stream, None)
    if checkpoint.HasField("position"):
        state.positions[checkpoint.stream].CopyFrom(checkpoint.position)
    if checkpoint.stream_schema:
        state.stream_schemas[checkpoint.stream] = checkpoint.stream_schema
