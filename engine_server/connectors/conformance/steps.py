"""The ways in which the engine awaits a connector's messages."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

from engine_server.connectors.protocols import Messages
from pipesync.v1.message_pb2 import Message

# Half a second is what the engine waits; the rest is for a busy machine.
CLOSE_TIMEOUT = 2.0


async def stepped_in_tasks(messages: Messages) -> Messages:
    """The messages, each awaited in a task of its own."""
    async with aclosing(messages):
        while (message := await asyncio.create_task(_next(messages))) is not None:
            yield message


async def closed_after(count: int, messages: Messages) -> list[Message]:
    """The first ``count`` messages; then all is closed."""
    async with closing_promptly(messages):
        return await _first(count, messages)


async def cancelled_after(count: int, messages: Messages) -> list[Message]:
    """The first ``count`` messages; then the wait for the next one is cancelled, and all closed."""
    async with closing_promptly(messages):
        seen = await _first(count, messages)
        waiting = asyncio.create_task(_next(messages))
        # It gets some way, another one each time, towards what it has to wait for.
        for _ in range(1 + 7 * (count % 5)):
            await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    return seen


@asynccontextmanager
async def closing_promptly(messages: Messages) -> AsyncIterator[None]:
    """Closes the messages after the block, and fails when that takes long."""
    clock = asyncio.get_running_loop().time
    async with aclosing(messages):
        yield
        began = clock()
    if (taken := clock() - began) > CLOSE_TIMEOUT:
        raise AssertionError(f"it took {taken:.1f} s to close")


async def _first(count: int, messages: Messages) -> list[Message]:
    seen: list[Message] = []
    while len(seen) < count and (message := await _next(messages)) is not None:
        seen.append(message)
    return seen


async def _next(messages: AsyncIterator[Message]) -> Message | None:
    return await anext(messages, None)
