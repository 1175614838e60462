"""Has pages committed early when a limit is near, and measures how long pages and flushes take."""

from collections.abc import AsyncGenerator, AsyncIterator

from engine_server.stages.pacing import Pacing
from pipesync.v1.message_pb2 import Message


async def measure_pages(
    messages: AsyncIterator[Message], pacing: Pacing
) -> AsyncGenerator[Message, None]:
    """Yields every message; notes when the source yielded records."""
    async for message in messages:
        if message.HasField("record_batch"):
            pacing.page_read()
        yield message


async def hurry_pages(
    messages: AsyncIterator[Message], pacing: Pacing
) -> AsyncGenerator[Message, None]:
    """Yields every message, and near the limit a barrier behind each checkpoint.

    A destination commits what is before a barrier without waiting for more. So what was read is
    committed even if the flush at the soft limit takes too long.
    """
    async for message in messages:
        barrier = pacing.handed_over(message)
        yield message
        if barrier is not None:
            yield barrier
    pacing.reading_ended()


async def measure_flushes(
    messages: AsyncIterator[Message], pacing: Pacing
) -> AsyncGenerator[Message, None]:
    """Yields what the destination yields, but for the barriers of ``hurry_pages``."""
    try:
        async for message in messages:
            if not pacing.passed_on(message):
                yield message
    finally:
        pacing.ended()
