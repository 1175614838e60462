"""Stage that ends a request at its hard limit, even if a connector does not stop."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

import structlog

from engine_server.read_ahead import ReadAhead
from pipesync.v1.message_pb2 import Message

_log = structlog.get_logger(__name__)

# Seconds that connectors may take to clean up after a cancellation before they are abandoned.
STOP_TIMEOUT = 0.5


async def end_at(
    messages: AsyncIterator[Message],
    moment: float | None,
    on_limit_reached: Callable[[], None],
    *,
    stop_timeout: float | None = None,
) -> AsyncGenerator[Message, None]:
    """Yield ``messages`` until ``moment``, then end within ``stop_timeout``.

    Unlike ``until``, this does not depend on the messages' cooperation: a separate task reads them.
    A task that ignores its cancellation is abandoned, and an error is logged.

    Args:
        messages: Messages of the last connector.
        moment: Time on the event loop's clock, in seconds; None for no limit.
        on_limit_reached: Called at most once, and only if the limit cut the messages off.
        stop_timeout: Seconds that the messages may take to stop; None for ``STOP_TIMEOUT``.
    """
    loop = asyncio.get_running_loop()
    if moment is not None and moment <= loop.time():
        on_limit_reached()
        return
    changed = asyncio.Event()
    limit = asyncio.Event()

    def reach_limit() -> None:
        limit.set()
        changed.set()

    timer = None if moment is None else loop.call_at(moment, reach_limit)
    reading = ReadAhead(messages, changed.set)
    try:
        while not limit.is_set():
            changed.clear()
            message = reading.take()
            if message is not None:
                yield message
            elif reading.is_over:
                return
            else:
                await changed.wait()
    finally:
        if timer is not None:
            timer.cancel()
        await end_task(reading.stop(), STOP_TIMEOUT if stop_timeout is None else stop_timeout)
    # Messages that the destination yielded before are committed, so they count.
    while (message := reading.take()) is not None:
        yield message
    on_limit_reached()


async def end_task(cancelled: asyncio.Task[Any], stop_timeout: float) -> None:
    """Wait for a cancelled task to end, or abandon it after ``stop_timeout``.

    Args:
        cancelled: Task that reads a connector's messages.
        stop_timeout: Seconds that the task may take to end.
    """
    if cancelled.done():
        return
    await asyncio.wait({cancelled}, timeout=stop_timeout)
    if not cancelled.done():
        _log.error("connector_does_not_stop", patience_seconds=stop_timeout)
    elif not cancelled.cancelled() and (error := cancelled.exception()) is not None:
        _log.warning("connector_failed_while_stopping", exc_info=error)
