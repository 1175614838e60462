"""Marks the end of the inputs that are pushed into a sync."""

from collections.abc import AsyncGenerator, AsyncIterator

from pipesync.v1.message_pb2 import InputsEnd, Message


async def end_inputs(messages: AsyncIterator[Message]) -> AsyncGenerator[Message, None]:
    """Yields every message, and the mark behind them when they end by themselves."""
    async for message in messages:
        yield message
    yield Message(inputs_end=InputsEnd())
