"""Stage that ends a request at the limit of dead letters that its eof may list."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable

from engine_server.dead_letters import MOST_BYTES, MOST_LETTERS, DeadLetterCount
from pipesync.v1.message_pb2 import Message


async def end_at_dead_letters(
    messages: AsyncIterator[Message],
    *,
    on_limit_reached: Callable[[], None],
    on_failure: Callable[[str], None],
) -> AsyncGenerator[Message, None]:
    """Yield all messages through the shared checkpoint that follows the limit of dead letters.

    At the limit, a source yields a shared checkpoint, so that the next request resumes after the
    dead letters. A source that yields twice the limit without that checkpoint would yield the same
    dead letters in every request: this is a failure, unless an earlier shared checkpoint shows
    progress.

    Args:
        messages: Messages from the source.
        on_limit_reached: Called at most once, before the last message, if the limit ends the
            request.
        on_failure: Called at most once, and only if ``on_limit_reached`` is not.
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
