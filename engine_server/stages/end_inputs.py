"""Stage that marks the end of a sync's pushed inputs."""

from collections.abc import AsyncGenerator, AsyncIterator

from pipesync.v1.message_pb2 import InputsEnd, Message


async def end_inputs(messages: AsyncIterator[Message]) -> AsyncGenerator[Message, None]:
    """Yield every message, and an ``inputs_end`` after the last one unless the stage is closed."""
    async for message in messages:
        yield message
    yield Message(inputs_end=InputsEnd())
