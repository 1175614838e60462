"""How fast one request goes: the source's pages, and the destination's flushes, against its limit.

One object is shared by the stages before and behind the destination.
"""

import asyncio
from collections import deque
from collections.abc import Callable

from engine_server.flush_times import RecentFlushes, seconds_for_flush
from engine_server.stages.time_limit import TimeLimit
from pipesync.v1.message_pb2 import Barrier, Message

# Seconds before the soft limit in which each page is committed as it comes: at least as long as a
# destination may gather rows otherwise.
HURRY_SECONDS = 1.0
# Sources count theirs from 1.
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
        """Begins with the request.

        Args:
            soft_limit: When reading stops; brought forward if flushes turn out to be slow.
            hard_limit: When the request ends; None for never.
            recent: The destination's flushes before; those of this request are added.
            clock: Seconds; that of the event loop unless told otherwise.
        """
        self._clock = clock or asyncio.get_running_loop().time
        self._soft_limit = soft_limit
        self._hard_limit = hard_limit
        self._recent = recent
        self._began = self._latest_page = self._clock()
        self._slowest_page: float | None = None
        self._reading_ended: float | None = None
        # When each barrier on its way was sent, and whether there are rows behind the last one.
        self._barriers: deque[float] = deque()
        self._has_rows = False

    @property
    def has_pages(self) -> bool:
        """Whether the source yielded any records."""
        return self._slowest_page is not None

    def page_read(self) -> None:
        """Notes that the source yielded records."""
        now = self._clock()
        self._slowest_page = max(self._slowest_page or 0.0, now - self._latest_page)
        self._latest_page = now

    def reading_ended(self) -> None:
        """Notes that the destination gets no more: it flushes now."""
        self._reading_ended = self._clock()

    def handed_over(self, message: Message) -> Message | None:
        """Notes a message for the destination.

        Returns:
            A barrier to send behind it, if what was read is to be committed without delay.
        """
        if message.HasField("record_batch"):
            self._has_rows = True
        if not (self._has_rows and message.HasField("source_state") and self._is_near_limit()):
            return None
        self._has_rows = False
        self._barriers.append(self._clock())
        return Message(barrier=Barrier(number=_NUMBER))

    def passed_on(self, message: Message) -> bool:
        """Notes what the destination yielded; whether it is a barrier of this object's."""
        if not (message.HasField("barrier") and message.barrier.number == _NUMBER):
            return False
        if self._barriers:
            self._measured(self._clock() - self._barriers.popleft())
        return True

    def ended(self) -> None:
        """Notes that the destination ended, or was ended."""
        now = self._clock()
        if self._barriers:
            if self._hard_limit is not None and now >= self._hard_limit:
                # Cut in the middle of a flush, which takes at least as long as that.
                self._measured(now - self._barriers[0])
        elif self._has_rows and self._reading_ended is not None and self._soft_limit.reached():
            self._measured(now - self._reading_ended)
        if not self.has_pages and self._soft_limit.reached():
            # Perhaps too much was kept for a flush to leave time for a page.
            self._recent.forget_longest()

    def describe_pages(self) -> str:
        """Say how long a page took, for a request that committed nothing."""
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
        return self._clock() >= self._soft_limit.at - HURRY_SECONDS

    def _measured(self, seconds: float) -> None:
        self._recent.add(seconds)
        if self._hard_limit is None:
            return
        kept = seconds_for_flush(self._hard_limit - self._began, seconds)
        self._soft_limit.bring_forward(self._hard_limit - kept)
