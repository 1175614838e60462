"""Pace of one request: durations of pages and flushes, and the soft limit that follows from them.

The stages before and after the destination share one object.
"""

import asyncio
from collections import deque
from collections.abc import Callable

from engine_server.flush_times import RecentFlushes, seconds_for_flush
from engine_server.stages.time_limit import TimeLimit
from pipesync.v1.message_pb2 import Barrier, Message

# Period before the soft limit in which each page is committed at once. At least as long as a
# destination otherwise collects rows before a flush.
EARLY_FLUSH_SECONDS = 1.0
# Number of the engine's own barriers. Sources number theirs from 1.
_NUMBER = 0


class Pacing:
    """Measures a request's pages and flushes, and moves its soft limit when flushes are slow."""

    def __init__(
        self,
        *,
        soft_limit: TimeLimit,
        hard_limit: float | None,
        recent: RecentFlushes,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """Begin to measure a request.

        Args:
            soft_limit: Time at which reading stops; brought forward if flushes are slow.
            hard_limit: Time at which the request ends; None for never.
            recent: Recent flushes of the destination; those of this request are added.
            clock: Returns the time in seconds; None for the event loop's clock.
        """
        self._clock = clock or asyncio.get_running_loop().time
        self._soft_limit = soft_limit
        self._hard_limit = hard_limit
        self._recent = recent
        self._began = self._latest_page = self._clock()
        self._slowest_page: float | None = None
        self._reading_ended: float | None = None
        # Send times of the barriers that the destination has not yielded yet, and whether it got
        # rows after the last one.
        self._barriers: deque[float] = deque()
        self._has_rows = False

    @property
    def has_pages(self) -> bool:
        """Whether the source has yielded any records."""
        return self._slowest_page is not None

    def observe_page(self) -> None:
        """Record that the source yielded a page."""
        now = self._clock()
        self._slowest_page = max(self._slowest_page or 0.0, now - self._latest_page)
        self._latest_page = now

    def observe_reading_end(self) -> None:
        """Record that the destination's input has ended, so that it flushes now."""
        self._reading_ended = self._clock()

    def barrier_after(self, message: Message) -> Message | None:
        """Record a message for the destination.

        Returns:
            A barrier to send after the message, if its page should be committed at once.
        """
        if message.HasField("record_batch"):
            self._has_rows = True
        if not (self._has_rows and message.HasField("source_state") and self._is_near_limit()):
            return None
        self._has_rows = False
        self._barriers.append(self._clock())
        return Message(barrier=Barrier(number=_NUMBER))

    def take_barrier(self, message: Message) -> bool:
        """Measure the flush if a message from the destination is a barrier of this object.

        Returns:
            Whether it is.
        """
        if not (message.HasField("barrier") and message.barrier.number == _NUMBER):
            return False
        if self._barriers:
            self._measured(self._clock() - self._barriers.popleft())
        return True

    def observe_end(self) -> None:
        """Record that the destination has ended or was cancelled."""
        now = self._clock()
        if self._barriers:
            if self._hard_limit is not None and now >= self._hard_limit:
                # The limit cut a flush off, which takes at least this long.
                self._measured(now - self._barriers[0])
        elif self._has_rows and self._reading_ended is not None and self._soft_limit.reached():
            self._measured(now - self._reading_ended)
        if not self.has_pages and self._soft_limit.reached():
            # The time reserved for the flush may have left too little for a page.
            self._recent.forget_longest()

    def describe_pages(self) -> str:
        """Return a sentence on the duration of pages, for a request that committed nothing."""
        if self._slowest_page is None:
            ended = self._clock() if self._reading_ended is None else self._reading_ended
            return f"the source was read for {ended - self._began:.2g} s, and no page arrived"
        waited = self._clock() - self._latest_page
        return (
            f"a page took {self._slowest_page:.2g} s, and the destination had not committed it"
            f" {waited:.2g} s later"
        )

    def _is_near_limit(self) -> bool:
        if self._hard_limit is None or self._soft_limit.at is None:
            return False
        return self._clock() >= self._soft_limit.at - EARLY_FLUSH_SECONDS

    def _measured(self, seconds: float) -> None:
        self._recent.add(seconds)
        if self._hard_limit is None:
            return
        kept = seconds_for_flush(self._hard_limit - self._began, seconds)
        self._soft_limit.bring_forward(self._hard_limit - kept)
