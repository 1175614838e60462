"""Operations of the engine besides sync: discover, check, setup, teardown, write."""

from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing

from engine_server.connectors.protocols import Messages, SelectedStream, TeardownPlanner
from engine_server.stages.annotate_and_log import annotate_and_log
from engine_server.stages.enforce_catalog import enforce_catalog
from engine_server.sync.checks.resolution import ResolvedDestination, ResolvedSource
from engine_server.sync.checks.write_requests import warn_of_dropped_records
from pipesync.v1.message_pb2 import Log, Message

Side = ResolvedSource | ResolvedDestination


def discover(source: ResolvedSource) -> Messages:
    """Yield the source's catalog, and logs."""
    return _logged(source.connector.discover(source.config), source.name)


def check(sides: Sequence[Side], streams: Sequence[SelectedStream]) -> Messages:
    """Yield the ``connection_status`` of each side, and logs."""
    return _each(sides, lambda side: side.connector.check(side.config, streams))


def setup(sides: Sequence[Side], streams: Sequence[SelectedStream]) -> Messages:
    """Set up each side; yield control messages and logs."""
    return _each(sides, lambda side: side.connector.setup(side.config, streams))


def teardown(sides: Sequence[Side], streams: Sequence[SelectedStream]) -> Messages:
    """Tear down each side; yield logs."""
    return _each(sides, lambda side: side.connector.teardown(side.config, streams))


def plan_teardown(sides: Sequence[Side], streams: Sequence[SelectedStream]) -> Messages:
    """Yield the ``planned_removal`` messages of a teardown, and logs; remove nothing."""
    return _each(sides, lambda side: _plan_teardown(side, streams))


async def write(
    destination: ResolvedDestination, streams: Sequence[SelectedStream], messages: Messages
) -> AsyncGenerator[Message, None]:
    """Write ``messages``, and yield the destination's messages without the records.

    For each stream that is not selected, a warning counts the records that were dropped.
    """
    dropped: Counter[str] = Counter()
    async with AsyncExitStack() as stack:

        async def enter(stage: Messages) -> Messages:
            return await stack.enter_async_context(aclosing(stage))

        messages = await enter(messages)
        messages = await enter(enforce_catalog(messages, streams, dropped))
        messages = await enter(destination.connector.write(destination.config, streams, messages))
        messages = await enter(_logged(messages, destination.name))
        messages = await enter(warn_of_dropped_records(messages, dropped))
        async for message in messages:
            if not message.HasField("record_batch"):
                yield message


async def _plan_teardown(side: Side, streams: Sequence[SelectedStream]) -> Messages:
    connector = side.connector
    if not isinstance(connector, TeardownPlanner):
        sentence = "cannot list in advance the resources that its teardown removes"
        yield Message(log=Log(level=Log.LEVEL_WARN, message=sentence))
        return
    async with aclosing(connector.plan_teardown(side.config, streams)) as messages:
        async for message in messages:
            yield message


async def _each(
    sides: Sequence[Side], call: Callable[[Side], Messages]
) -> AsyncGenerator[Message, None]:
    for side in sides:
        async with aclosing(_logged(call(side), side.name)) as messages:
            async for message in messages:
                yield message


async def _logged(messages: Messages, emitted_by: str) -> AsyncGenerator[Message, None]:
    """Yield a connector's messages, annotated with its name, and copy its logs to the engine's."""
    async with aclosing(messages), aclosing(annotate_and_log(messages, emitted_by)) as annotated:
        async for message in annotated:
            yield message
