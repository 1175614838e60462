"""Stage that ends a request's reading at a soft limit, even during a wait for a message."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable

from pipesync.v1.message_pb2 import Message


class LimitReached(Exception):
    """The limit was reached before the next message."""


class TimeLimit:
    """Limit in time that can be brought forward.

    Attributes:
        at: Time on the event loop's clock, in seconds; None for no limit.
        is_shutdown: Whether ``end_now`` reached the limit, not the clock.
    """

    def __init__(self, at: float | None) -> None:
        self.at = at
        self.is_shutdown = False
        self._waiting: set[asyncio.Timeout] = set()
        self._at_shutdown: list[TimeLimit] = []

    def shutdown_limit(self) -> "TimeLimit":
        """Return a limit that a shutdown of this limit reaches, but the clock never does."""
        limit = TimeLimit(self.at if self.is_shutdown else None)
        self._at_shutdown.append(limit)
        return limit

    def reached(self) -> bool:
        """Return whether the limit is reached."""
        return self.at is not None and asyncio.get_running_loop().time() >= self.at

    def end_now(self) -> None:
        """Bring the limit forward to now, and end all waits that it bounds."""
        if not self.reached():
            self.is_shutdown = True
        self.bring_forward(asyncio.get_running_loop().time())
        for limit in self._at_shutdown:
            limit.end_now()

    def bring_forward(self, at: float) -> None:
        """Set an earlier time on the event loop's clock; a later one changes nothing."""
        self.at = at if self.at is None else min(self.at, at)
        for timeout in self._waiting:
            if not timeout.expired():
                timeout.reschedule(self.at)

    async def wait_for(self, messages: AsyncIterator[Message]) -> Message:
        """Return the next message; at the limit, cancel the wait for it.

        Raises:
            StopAsyncIteration: ``messages`` ended.
            LimitReached: The limit was reached first.
        """
        timeout = asyncio.timeout_at(self.at)
        self._waiting.add(timeout)
        try:
            async with timeout:
                return await anext(messages)
        except (TimeoutError, StopAsyncIteration):
            # The timeout decides, not the clock: the loop may fire a timer up to a millisecond
            # early. Messages that end because of the cancellation did not end by themselves.
            if timeout.expired():
                raise LimitReached from None
            raise
        finally:
            self._waiting.remove(timeout)


async def until(
    messages: AsyncIterator[Message], limit: TimeLimit, on_limit_reached: Callable[[], None]
) -> AsyncGenerator[Message, None]:
    """Yield ``messages`` until ``limit``, then end, even during a wait for the next message.

    ``on_limit_reached`` is called at most once, and only if the limit cut the messages off.
    """
    while not limit.reached():
        try:
            message = await limit.wait_for(messages)
        except StopAsyncIteration:
            return
        except LimitReached:
            break
        yield message
    on_limit_reached()
