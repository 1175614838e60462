"""Input for stages, and collection of their output."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from pipesync.v1.message_pb2 import Message


async def given(*messages: Message) -> AsyncGenerator[Message, None]:
    """Yield the messages."""
    for message in messages:
        yield message


async def nothing_after(*messages: Message) -> AsyncGenerator[Message, None]:
    """Yield the messages, and fail if another one is requested."""
    for message in messages:
        yield message
    raise AssertionError("one message more was asked for")


async def failing(error: BaseException, *messages: Message) -> AsyncGenerator[Message, None]:
    """Yield the messages, then raise."""
    for message in messages:
        yield message
    raise error


async def gathered(messages: AsyncGenerator[Message, None]) -> list[Message]:
    """Return all messages of a stage, and close it."""
    async with aclosing(messages):
        return [message async for message in messages]


class Calls:
    """Callable that counts its calls."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1
