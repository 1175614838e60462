"""Stage that adds to checkpoints the fields that their streams' history is read with."""

from collections.abc import AsyncGenerator, AsyncIterator

from engine_server.state.stream_schemas import StreamSchemas
from pipesync.v1.message_pb2 import Message


async def announce_schemas(
    messages: AsyncIterator[Message], schemas: StreamSchemas
) -> AsyncGenerator[Message, None]:
    """Yield every message, the first checkpoint of each stream with its entry.

    Runs before the destination, which may record the entry with the checkpoint.
    """
    async for message in messages:
        if message.HasField("source_state"):
            schemas.announce(message)
        yield message
