"""Stages that flush pages early when a limit is near, and measure pages and flushes."""

from collections.abc import AsyncGenerator, AsyncIterator

from engine_server.stages.pacing import Pacing
from pipesync.v1.message_pb2 import Message


async def measure_pages(
    messages: AsyncIterator[Message], pacing: Pacing
) -> AsyncGenerator[Message, None]:
    """Yield every message, and record when the source yields records."""
    async for message in messages:
        if message.HasField("record_batch"):
            pacing.observe_page()
        yield message


async def flush_early(
    messages: AsyncIterator[Message], pacing: Pacing
) -> AsyncGenerator[Message, None]:
    """Yield every message, and near the limit a barrier after each checkpoint.

    A destination commits the records before a barrier without waiting for more. Pages are thus
    committed even if the flush at the soft limit takes too long.
    """
    async for message in messages:
        barrier = pacing.barrier_after(message)
        yield message
        if barrier is not None:
            yield barrier
    pacing.observe_reading_end()


async def measure_flushes(
    messages: AsyncIterator[Message], pacing: Pacing
) -> AsyncGenerator[Message, None]:
    """Yield the destination's messages without the barriers of ``flush_early``."""
    try:
        async for message in messages:
            if not pacing.take_barrier(message):
                yield message
    finally:
        pacing.observe_end()
