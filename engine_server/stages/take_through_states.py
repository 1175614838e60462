"""Ends a stream of messages at its Nth checkpoint."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable

from pipesync.v1.message_pb2 import Message


async def take_through_states(
    messages: AsyncIterator[Message], limit: int, on_limit_reached: Callable[[], None]
) -> AsyncGenerator[Message, None]:
    """Yields everything through the ``limit``-th checkpoint, the global ones counted too.

    Then it ends without asking ``messages`` for one more. ``on_limit_reached`` is called once, just
    before the last checkpoint is yielded, and only when there is such a checkpoint.

    Raises:
        ValueError: ``limit`` is below 1.
    """
    if limit < 1:
        raise ValueError(f"a limit of checkpoints is at least 1, not {limit}")
    left = limit
    async for message in messages:
        if message.HasField("source_state"):
            left -= 1
            if not left:
                on_limit_reached()
                yield message
                return
        yield message
