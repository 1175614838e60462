"""Messages in, messages out: how stages are fed, and how what they yield is gathered."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from pipesync.v1.message_pb2 import Message


async def given(*messages: Message) -> AsyncGenerator[Message, None]:
    """The messages, one after the other."""
    for message in messages:
        yield message


async def nothing_after(*messages: Message) -> AsyncGenerator[Message, None]:
    """The messages; asking for one more is a failure."""
    for message in messages:
        yield message
    raise AssertionError("one message more was asked for")


async def failing(error: BaseException, *messages: Message) -> AsyncGenerator[Message, None]:
    """The messages, then an exception."""
    for message in messages:
        yield message
    raise error


async def gathered(messages: AsyncGenerator[Message, None]) -> list[Message]:
    """All messages of a stage that is then closed."""
    async with aclosing(messages):
        return [message async for message in messages]


class Calls:
    """Counts how often it is called."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1
