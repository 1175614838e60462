"""Messages that a separate task reads ahead."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from engine_server.read_ahead import MOST_WAITING, ReadAhead
from pipesync.v1.message_pb2 import Message
from tests.messages import checkpoint


async def taken(reading: ReadAhead, news: asyncio.Event) -> list[str]:
    """Return the data of all checkpoints until the end."""
    found = []
    while not reading.is_over:
        message = reading.take()
        if message is None:
            await news.wait()
            news.clear()
        else:
            found.append(message.source_state.data)
    return found


async def test_every_message_is_taken_once_and_in_order() -> None:
    async def messages() -> AsyncGenerator[Message, None]:
        for number in range(50):
            if number % 7 == 0:
                await asyncio.sleep(0)
            yield checkpoint("s", str(number))

    news = asyncio.Event()
    reading = ReadAhead(messages(), news.set)
    assert await taken(reading, news) == [str(number) for number in range(50)]
    assert reading.take() is None


async def test_only_a_few_messages_are_read_ahead() -> None:
    read: list[int] = []

    async def messages() -> AsyncGenerator[Message, None]:
        for number in range(50):
            read.append(number)
            yield checkpoint("s", str(number))

    news = asyncio.Event()
    reading = ReadAhead(messages(), news.set)
    await news.wait()
    assert len(read) == MOST_WAITING
    for _ in range(MOST_WAITING):
        assert reading.take() is not None
    news.clear()
    await news.wait()
    assert len(read) == 2 * MOST_WAITING
    await asyncio.wait([reading.stop()])
    assert len(read) == 2 * MOST_WAITING


async def test_an_error_is_raised_after_the_messages_before_it() -> None:
    async def messages() -> AsyncGenerator[Message, None]:
        yield checkpoint("s", "1")
        raise ZeroDivisionError

    news = asyncio.Event()
    reading = ReadAhead(messages(), news.set)
    await news.wait()
    assert reading.take() == checkpoint("s", "1")
    news.clear()
    while not reading.is_over:
        await news.wait()
    with pytest.raises(ZeroDivisionError):
        reading.take()


async def test_buffered_messages_can_be_taken_after_the_stop() -> None:
    async def messages() -> AsyncGenerator[Message, None]:
        yield checkpoint("s", "1")
        await asyncio.Event().wait()

    news = asyncio.Event()
    reading = ReadAhead(messages(), news.set)
    await news.wait()
    await asyncio.wait([reading.stop()])
    assert reading.take() == checkpoint("s", "1")
    assert reading.take() is None
    assert reading.is_over
