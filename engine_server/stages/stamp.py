"""Notes on every message who emitted it, and when."""

import time
from collections.abc import AsyncGenerator, AsyncIterator

from pipesync.v1.message_pb2 import Message


async def stamp(messages: AsyncIterator[Message], emitted_by: str) -> AsyncGenerator[Message, None]:
    """Yields every message; one that bears no origin or no time yet gets it."""
    async for message in messages:
        if not message.emitted_by:
            message.emitted_by = emitted_by
        if not message.HasField("ts"):
            message.ts.FromNanoseconds(time.time_ns())
        yield message
