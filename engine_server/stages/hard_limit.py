"""Ends a stream of messages at a moment in time, whatever it does and however it takes that."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

import structlog

from engine_server.read_ahead import ReadAhead
from pipesync.v1.message_pb2 import Message

log = structlog.get_logger()

# How long connectors may tidy up once they are cancelled, in seconds, before they are left to it.
PATIENCE_SECONDS = 0.5


async def end_at(
    messages: AsyncIterator[Message],
    moment: float | None,
    on_limit_reached: Callable[[], None],
    *,
    patience: float | None = None,
) -> AsyncGenerator[Message, None]:
    """Yields ``messages`` until ``moment``, then ends, ``patience`` later at the most.

    Unlike ``until`` it does not depend on the messages' good will: they are read in a task of their
    own, and if that does not heed its cancellation it is left behind, and that is logged.

    Args:
        messages: What the last connector yields.
        moment: On the event loop's clock, in seconds; None for no limit.
        on_limit_reached: Called at most once, and only when the limit cut the stream.
        patience: How many seconds the messages may take to stop; None for half a second.
    """
    loop = asyncio.get_running_loop()
    if moment is not None and moment <= loop.time():
        on_limit_reached()
        return
    news = asyncio.Event()
    limit = asyncio.Event()

    def reach_limit() -> None:
        limit.set()
        news.set()

    timer = None if moment is None else loop.call_at(moment, reach_limit)
    reading = ReadAhead(messages, news.set)
    try:
        while not limit.is_set():
            news.clear()
            message = reading.take()
            if message is not None:
                yield message
            elif reading.is_over:
                return
            else:
                await news.wait()
    finally:
        if timer is not None:
            timer.cancel()
        await end_task(reading.stop(), PATIENCE_SECONDS if patience is None else patience)
    # What the last connector had yielded is committed, and counts.
    while (message := reading.take()) is not None:
        yield message
    on_limit_reached()


async def end_task(cancelled: asyncio.Task[Any], patience: float) -> None:
    """Wait until a task that was cancelled has ended, or leave it to itself.

    Args:
        cancelled: Reads a connector's messages.
        patience: How many seconds it may take.
    """
    if cancelled.done():
        return
    await asyncio.wait({cancelled}, timeout=patience)
    if not cancelled.done():
        log.error("connector_does_not_stop", patience_seconds=patience)
    elif not cancelled.cancelled() and (error := cancelled.exception()) is not None:
        log.warning("connector_failed_while_stopping", exc_info=error)
