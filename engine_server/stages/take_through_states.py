"""Stage that ends a request at its Nth checkpoint."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable

from pipesync.v1.message_pb2 import Message


async def take_through_states(
    messages: AsyncIterator[Message], limit: int, on_limit_reached: Callable[[], None]
) -> AsyncGenerator[Message, None]:
    """Yield all messages through the ``limit``-th checkpoint, counting shared ones too.

    Then it ends without requesting another message. ``on_limit_reached`` is called once, before the
    ``limit``-th checkpoint is yielded, and not at all if the messages end earlier.

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
