"""Scripted source and destination, found by entry points like any connector."""

import asyncio
from collections import defaultdict
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Sequence,
)
from contextlib import aclosing
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint

from pydantic import SecretStr

from engine_server.connectors.config import ConnectorConfig, config_schema
from engine_server.connectors.protocols import Messages, ReadRequest, SelectedStream
from engine_server.connectors.registry import (
    DESTINATIONS_GROUP,
    SOURCES_GROUP,
    ConnectorRegistry,
)
from engine_server.state.stream_name import stream_name
from pipesync.v1.catalog_pb2 import Catalog, Spec, Stream
from pipesync.v1.message_pb2 import Message, PlannedRemoval
from tests.engine_server.reads import Read, given
from tests.messages import connected, control, errored, log


async def at_once() -> None:
    """Return at once, to commit without waiting."""


@dataclass(kw_only=True)
class SourceScript:
    """Behaviour of the source, and a record of its reads.

    Attributes:
        streams: The catalog.
        read: Yields the messages of a read.
        before_discover: Awaited before the catalog is yielded.
        requests: The requests of the reads, in order.
        reading: Set once a read has begun.
        closed: Set once a read has ended in any way.
    """

    streams: Sequence[Stream] = ()
    read: Read = field(default_factory=given)
    before_discover: Callable[[], Awaitable[None]] = at_once
    requests: list[ReadRequest] = field(default_factory=list)
    reading: asyncio.Event = field(default_factory=asyncio.Event)
    closed: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(kw_only=True)
class DestinationScript:
    """Behaviour of the destination, and a record of its commits.

    Attributes:
        commit_every: Number of messages in a commit; a barrier commits earlier.
        before_commit: Awaited before each commit; may block or raise.
        refuses: Names of the streams whose records are refused.
        reads_in_tasks: Whether each message is awaited in its own task.
        committed: The committed records of each stream, in order.
        closed: Set once a write has ended in any way.
    """

    commit_every: int = 1
    before_commit: Callable[[], Awaitable[None]] = at_once
    refuses: frozenset[str] = frozenset()
    reads_in_tasks: bool = False
    committed: dict[str, list[bytes]] = field(default_factory=lambda: defaultdict(list))
    closed: asyncio.Event = field(default_factory=asyncio.Event)


# Scripts by the name in a configuration's field ``script``. A fixture fills and clears them.
source_scripts: dict[str, SourceScript] = {}
destination_scripts: dict[str, DestinationScript] = {}


class ScriptedConfig(ConnectorConfig):
    """Configuration that names a script."""

    script: str
    password: SecretStr | None = None
    follows_events: bool = True


class ScriptedSource:
    """Source that follows a SourceScript."""

    config_model = ScriptedConfig

    def spec(self) -> Spec:
        return Spec(config_schema=config_schema(ScriptedConfig))

    async def check(self, config: ScriptedConfig, streams: Sequence[SelectedStream]) -> Messages:
        yield connected()

    async def discover(self, config: ScriptedConfig) -> Messages:
        script = source_scripts[config.script]
        await script.before_discover()
        yield Message(catalog=Catalog(streams=script.streams))

    async def read(self, config: ScriptedConfig, request: ReadRequest) -> Messages:
        script = source_scripts[config.script]
        script.requests.append(request)
        script.reading.set()
        try:
            async with aclosing(script.read(request)) as messages:
                async for message in messages:
                    yield message
        finally:
            # Like closing a connection, this takes an iteration of the event loop.
            await asyncio.sleep(0)
            script.closed.set()

    async def setup(self, config: ScriptedConfig, streams: Sequence[SelectedStream]) -> Messages:
        yield control({"script": config.script, "password": "made by setup"})

    async def teardown(self, config: ScriptedConfig, streams: Sequence[SelectedStream]) -> Messages:
        yield log("source torn down")


class ScriptedDestination:
    """Destination that follows a DestinationScript."""

    config_model = ScriptedConfig

    def spec(self) -> Spec:
        return Spec(config_schema=config_schema(ScriptedConfig))

    async def check(self, config: ScriptedConfig, streams: Sequence[SelectedStream]) -> Messages:
        yield connected()

    async def write(
        self,
        config: ScriptedConfig,
        streams: Sequence[SelectedStream],
        messages: AsyncIterator[Message],
    ) -> Messages:
        script = destination_scripts[config.script]
        refused: set[str] = set()
        held: list[Message] = []
        read = _in_tasks if script.reads_in_tasks else _in_turn
        try:
            async with aclosing(read(messages)) as incoming:
                async for message in incoming:
                    held.append(message)
                    if len(held) >= script.commit_every or message.HasField("barrier"):
                        async for passed_on in _commit(script, held, refused):
                            yield passed_on
                        held.clear()
            async for passed_on in _commit(script, held, refused):
                yield passed_on
        finally:
            # Like closing a connection, this takes an iteration of the event loop.
            await asyncio.sleep(0)
            script.closed.set()

    async def setup(self, config: ScriptedConfig, streams: Sequence[SelectedStream]) -> Messages:
        yield log(f"made {', '.join(selected.name for selected in streams)}")

    async def teardown(self, config: ScriptedConfig, streams: Sequence[SelectedStream]) -> Messages:
        yield log("destination torn down")

    async def plan_teardown(
        self, config: ScriptedConfig, streams: Sequence[SelectedStream]
    ) -> Messages:
        names = ", ".join(selected.name for selected in streams)
        yield Message(planned_removal=PlannedRemoval(name=names))


async def _in_turn(messages: AsyncIterator[Message]) -> Messages:
    async for message in messages:
        yield message


async def _in_tasks(messages: AsyncIterator[Message]) -> Messages:
    async def next_one() -> Message | None:
        return await anext(messages, None)

    while True:
        reading = asyncio.create_task(next_one())
        try:
            await asyncio.wait([reading])
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
        message = reading.result()
        if message is None:
            return
        yield message


async def _commit(
    script: DestinationScript, held: Sequence[Message], refused: set[str]
) -> AsyncGenerator[Message, None]:
    await script.before_commit()
    for message in held:
        name = stream_name(message)
        if name in refused:
            continue
        if message.HasField("record_batch") and name in script.refuses:
            refused.add(name)
            yield errored(name, f"{name} was refused")
            continue
        if message.HasField("record_batch"):
            script.committed[name].extend(message.record_batch.records)
        yield message


def scripted_registry() -> ConnectorRegistry:
    """Return a registry of the scripted connectors."""
    module = ScriptedSource.__module__
    return ConnectorRegistry(
        [EntryPoint("scripted", f"{module}:{ScriptedSource.__name__}", SOURCES_GROUP)],
        [EntryPoint("scripted", f"{module}:{ScriptedDestination.__name__}", DESTINATIONS_GROUP)],
    )
