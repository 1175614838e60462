"""What the engine does besides syncing: discover, check, set up, tear down, write."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing

from engine_server.connectors.protocols import Messages, SelectedStream
from engine_server.pipeline import ResolvedDestination, ResolvedSource
from engine_server.stages.enforce_catalog import enforce_catalog
from engine_server.stages.stamp import stamp
from engine_server.stages.tap_log import tap_log
from pipesync.v1.message_pb2 import Message

Side = ResolvedSource | ResolvedDestination


def discover(source: ResolvedSource) -> Messages:
    """The source's catalog, and logs."""
    return _logged(source.connector.discover(source.config), source.name)


def check(sides: Sequence[Side], streams: Sequence[SelectedStream]) -> Messages:
    """A connection_status of each side, and logs."""
    return _each(sides, lambda side: side.connector.check(side.config, streams))


def setup(sides: Sequence[Side], streams: Sequence[SelectedStream]) -> Messages:
    """Makes what each side needs: control messages, and logs."""
    return _each(sides, lambda side: side.connector.setup(side.config, streams))


def teardown(sides: Sequence[Side], streams: Sequence[SelectedStream]) -> Messages:
    """Removes what setup made: logs."""
    return _each(sides, lambda side: side.connector.teardown(side.config, streams))


async def write(
    destination: ResolvedDestination, streams: Sequence[SelectedStream], messages: Messages
) -> AsyncGenerator[Message, None]:
    """Writes ``messages`` and yields what the destination committed, but for the records."""
    async with AsyncExitStack() as stack:

        async def enter(stage: Messages) -> Messages:
            return await stack.enter_async_context(aclosing(stage))

        messages = await enter(messages)
        messages = await enter(enforce_catalog(messages, streams))
        messages = await enter(destination.connector.write(destination.config, streams, messages))
        messages = await enter(_logged(messages, destination.name))
        async for message in messages:
            if not message.HasField("record_batch"):
                yield message


async def _each(
    sides: Sequence[Side], call: Callable[[Side], Messages]
) -> AsyncGenerator[Message, None]:
    for side in sides:
        async with aclosing(_logged(call(side), side.name)) as messages:
            async for message in messages:
                yield message


async def _logged(messages: Messages, emitted_by: str) -> AsyncGenerator[Message, None]:
    """The messages of one connector, marked with its name and with its logs in the engine's log."""
    async with (
        aclosing(messages),
        aclosing(stamp(messages, emitted_by)) as stamped,
        aclosing(tap_log(stamped, emitted_by)) as tapped,
    ):
        async for message in tapped:
            yield message
