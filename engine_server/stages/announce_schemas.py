"""Notes on checkpoints which fields their streams' history is read with."""

from collections.abc import AsyncGenerator, AsyncIterator

from engine_server.stream_schemas import StreamSchemas
from pipesync.v1.message_pb2 import Message


async def announce_schemas(
    messages: AsyncIterator[Message], schemas: StreamSchemas
) -> AsyncGenerator[Message, None]:
    """Yields every message; a stream's first checkpoint is given its entry.

    It stands before the destination, which may record the entry beside the checkpoint.
    """
    async for message in messages:
        if message.HasField("source_state"):
            schemas.announce(message)
        yield message
