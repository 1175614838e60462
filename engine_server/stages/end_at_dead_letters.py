"""Ends a stream of messages once a request has as many dead letters as its eof may list."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable

from engine_server.dead_letters import MOST_BYTES, MOST_LETTERS, DeadLetterCount
from pipesync.v1.message_pb2 import Message


async def end_at_dead_letters(
    messages: AsyncIterator[Message],
    *,
    on_limit_reached: Callable[[], None],
    on_failure: Callable[[str], None],
) -> AsyncGenerator[Message, None]:
    """Yields everything through the checkpoint behind the last dead letter that fits.

    A source sends a checkpoint of all streams as soon as it has sent that many, so that the next
    request goes on behind them. One that sends twice as many without any would come to them again
    and again: that is a failure, unless other checkpoints show that it has got somewhere.

    Args:
        messages: From the source.
        on_limit_reached: Called at most once, before the last message, when the bound cut it.
        on_failure: Called at most once, instead.
    """
    count = DeadLetterCount()
    is_followed = False
    async for message in messages:
        if message.HasField("dead_letter"):
            count.add(message.dead_letter)
        elif message.HasField("source_state") and not message.source_state.stream:
            is_followed = True
            if count.is_full:
                on_limit_reached()
                yield message
                return
        yield message
        if count.is_overfull:
            if is_followed:
                on_limit_reached()
            else:
                on_failure(
                    f"the source gave up over {MOST_LETTERS} events, or {MOST_BYTES} bytes of them,"
                    " without a checkpoint behind them"
                )
            return
