"""Ways in which the engine awaits and closes a connector's messages."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

from engine_server.connectors.protocols import Messages
from pipesync.v1.message_pb2 import Message

# The engine waits half a second; the rest allows for a busy machine.
CLOSE_TIMEOUT = 2.0


async def awaited_in_tasks(messages: Messages) -> Messages:
    """Yield the messages, each awaited in its own task."""
    async with aclosing(messages):
        while (message := await asyncio.create_task(_next(messages))) is not None:
            yield message


async def closed_after(count: int, messages: Messages) -> list[Message]:
    """Return the first ``count`` messages, and close the rest."""
    async with closing_promptly(messages):
        return await _first(count, messages)


async def cancelled_after(count: int, messages: Messages) -> list[Message]:
    """Return the first ``count`` messages, cancel the wait for the next one, and close the rest."""
    async with closing_promptly(messages):
        seen = await _first(count, messages)
        waiting = asyncio.create_task(_next(messages))
        # Cancel at another point of the wait for each count.
        for _ in range(1 + 7 * (count % 5)):
            await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    return seen


@asynccontextmanager
async def closing_promptly(messages: Messages) -> AsyncIterator[None]:
    """Close the messages after the block, and fail if that takes over ``CLOSE_TIMEOUT`` seconds."""
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
