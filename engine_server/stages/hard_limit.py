"""Ends a stream of messages at a moment in time, whatever it does and however it takes that."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable

import structlog

from pipesync.v1.message_pb2 import Message

log = structlog.get_logger()

# How long connectors may tidy up once they are cancelled, in seconds, before they are left to it.
PATIENCE_SECONDS = 0.5


async def end_at(
    messages: AsyncIterator[Message], moment: float | None, on_limit_reached: Callable[[], None]
) -> AsyncGenerator[Message, None]:
    """Yields ``messages`` until ``moment``, then ends, half a second later at the most.

    Unlike ``until`` it does not depend on the messages' good will: they are read in a task of their
    own, and if that does not heed its cancellation it is left behind, and that is logged.

    Args:
        messages: What the last connector yields.
        moment: On the event loop's clock, in seconds; None for no limit.
        on_limit_reached: Called at most once, and only when the limit cut the stream.
    """
    clock = asyncio.get_running_loop().time
    while moment is None or clock() < moment:
        reading = asyncio.create_task(_next(messages))
        try:
            timeout = None if moment is None else moment - clock()
            await asyncio.wait({reading}, timeout=timeout)
            was_cut = not reading.done()
        finally:
            await _end(reading)
        if was_cut:
            break
        message = reading.result()
        if message is None:
            return
        yield message
    on_limit_reached()


async def _next(messages: AsyncIterator[Message]) -> Message | None:
    return await anext(messages, None)


async def _end(reading: asyncio.Task[Message | None]) -> None:
    if reading.done():
        return
    reading.cancel()
    await asyncio.wait({reading}, timeout=PATIENCE_SECONDS)
    if not reading.done():
        log.error("connector_does_not_stop", patience_seconds=PATIENCE_SECONDS)
    elif not reading.cancelled() and (error := reading.exception()) is not None:
        log.warning("connector_failed_while_stopping", exc_info=error)
