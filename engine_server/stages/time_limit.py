"""Ends a stream of messages at a moment in time, even while it waits for the next message."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable

from pipesync.v1.message_pb2 import Message


class LimitReached(Exception):
    """The limit came before the next message."""


class TimeLimit:
    """The moment at which something ends: known beforehand, or brought forward to now.

    Attributes:
        at: On the event loop's clock, in seconds; None while there is no limit.
        is_shutdown: Whether ``end_now`` brought it forward, not the clock.
    """

    def __init__(self, at: float | None) -> None:
        self.at = at
        self.is_shutdown = False
        self._waiting: set[asyncio.Timeout] = set()
        self._at_shutdown: list[TimeLimit] = []

    def of_shutdown(self) -> "TimeLimit":
        """Return a limit that a shutdown reaches, as it does this one, and the clock never."""
        limit = TimeLimit(self.at if self.is_shutdown else None)
        self._at_shutdown.append(limit)
        return limit

    def reached(self) -> bool:
        """Whether the moment has come."""
        return self.at is not None and asyncio.get_running_loop().time() >= self.at

    def end_now(self) -> None:
        """Brings the moment forward to now: whoever waits under this limit stops waiting."""
        if not self.reached():
            self.is_shutdown = True
        self.bring_forward(asyncio.get_running_loop().time())
        for limit in self._at_shutdown:
            limit.end_now()

    def bring_forward(self, at: float) -> None:
        """Sets an earlier moment, on the event loop's clock; a later one changes nothing."""
        self.at = at if self.at is None else min(self.at, at)
        for timeout in self._waiting:
            if not timeout.expired():
                timeout.reschedule(self.at)

    async def wait_for(self, messages: AsyncIterator[Message]) -> Message:
        """The next message, unless the limit comes first: then the wait for it is cancelled.

        Raises:
            StopAsyncIteration: ``messages`` ended.
            LimitReached: The limit came first.
        """
        timeout = asyncio.timeout_at(self.at)
        self._waiting.add(timeout)
        try:
            async with timeout:
                return await anext(messages)
        except (TimeoutError, StopAsyncIteration):
            # Not by the clock: a loop may fire a timer up to a millisecond before its time. And
            # messages that end because their wait was cancelled did not end by themselves.
            if timeout.expired():
                raise LimitReached from None
            raise
        finally:
            self._waiting.remove(timeout)


async def until(
    messages: AsyncIterator[Message], limit: TimeLimit, on_limit_reached: Callable[[], None]
) -> AsyncGenerator[Message, None]:
    """Yields ``messages`` until ``limit``, then ends, whatever they are waiting for.

    ``on_limit_reached`` is called at most once, and only when the limit cut the stream.
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
