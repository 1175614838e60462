"""Events of a span of time, oldest first, although Stripe lists them newest first.

The span is read window by window. Each window is read in full, then reversed. A window's length
follows from the density of those before, for a few pages each, and a few windows are read ahead to
hide latency. If a window turns out to hold too many events, the newest part that was read is kept
for later, and its beginning is read in a shorter window.
"""

import asyncio
import dataclasses
import itertools
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from engine_server.connectors.stripe.api.client import StripeClient
from engine_server.connectors.stripe.api.errors import RequestFailed
from engine_server.connectors.stripe.events.polling.event_pages import (
    EVENTS_PATH,
    EventPage,
    fetch_events,
)
from engine_server.connectors.stripe.lists.empty_pages import EmptyPage
from engine_server.connectors.stripe.lists.list_page import ListedObject

# The most windows read ahead, and the most events that one of them holds. As many events again are
# kept for later.
AHEAD = 4
MOST_EVENTS = 1_000
_WANTED_EVENTS = MOST_EVENTS // 2
# The most growth from one window to the next: sparse events may become dense.
_MOST_GROWTH = 8
# If few windows will be taken, one with this many expected events is abandoned after a page.
_FAR_TOO_MANY = 2 * MOST_EVENTS
# Attempts at a window when Stripe loses the position in it.
_ATTEMPTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class EventGroup:
    """Events that follow those returned before.

    Attributes:
        events: The events, oldest first; those of one second in the order of their creation.
        before: With this group, all listed events created before this second were returned.
        known_until: The last Unix second that was over at the request. The list may have lacked
            events that appear later.
    """

    events: Sequence[ListedObject]
    before: int
    known_until: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Read:
    """The events read of a window: all of it, or its newest part.

    Attributes:
        gte: The first second of that part.
        events: The events, newest first.
        known_until: As in ``EventGroup``.
        oldest: The oldest event of a window of one second with too many events to hold at once;
            else None.
    """

    gte: int
    events: Sequence[ListedObject]
    known_until: int
    oldest: ListedObject | None = None


@dataclass(slots=True, kw_only=True, eq=False)
class _Window:
    """Seconds that are read together: [gte, lt).

    Attributes:
        gte: The first second.
        lt: The second after the last.
        seconds: The number of seconds to try first; None to use the density so far.
        task: The task that reads it; None before it starts.
        read: The events read; None before it is done.
        is_kept: Whether these events were kept from a longer window.
        is_first: Set once it is the next window to return.
    """

    gte: int
    lt: int
    seconds: float | None = None
    task: asyncio.Task[None] | None = None
    read: _Read | None = None
    is_kept: bool = False
    is_first: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True, slots=True, kw_only=True)
class _FullSecond:
    """A second that is read page by page, from its oldest event on.

    Attributes:
        second: The Unix second.
        known_until: As in ``EventGroup``.
        after: The id of the last event that was returned.
    """

    second: int
    known_until: int
    after: str


class EventWindows:
    """Returns the events created in [gte, lt), in groups; its owner closes it."""

    def __init__(self, client: StripeClient, *, gte: int, lt: int) -> None:
        """Store the arguments; nothing is read yet."""
        self._client = client
        self._windows = deque([_Window(gte=gte, lt=lt)] if gte < lt else [])
        # The best length of a window in seconds; unknown before the first one.
        self._seconds = math.inf
        self._is_thrifty = False
        self._full: _FullSecond | None = None

    @property
    def is_over(self) -> bool:
        """Whether all events were returned."""
        return not self._windows and self._full is None

    async def next(self, ahead: int = AHEAD) -> EventGroup | None:
        """Return the next events; None if there are no more.

        Args:
            ahead: The most windows to read at once, including the next one; at least 1. Below
                ``AHEAD``, little is read of events that will probably not be used.

        Raises:
            EventsUnreadable: The key may not read events.
            ConnectionFailed: See ``StripeClient.get``.
            RequestFailed: See ``StripeClient.get``.
        """
        self._is_thrifty = ahead < AHEAD
        if self._full is not None:
            return await self._next_of_full_second(self._full)
        while self._windows:
            self._start(ahead)
            window = self._windows[0]
            window.is_first.set()
            if window.task is not None:
                await window.task
            read = window.read
            if read is None:
                continue
            self._windows.popleft()
            if read.gte > window.gte:
                self._divide(window, read)
                continue
            if read.oldest is not None:
                last = str(read.oldest.head.id)
                self._full = _FullSecond(
                    second=window.gte, known_until=read.known_until, after=last
                )
                return EventGroup(
                    events=[read.oldest], before=window.gte, known_until=read.known_until
                )
            self._learn(window.lt - window.gte, len(read.events))
            # The next windows are read while the caller processes this one.
            self._start(ahead - 1)
            return EventGroup(
                events=read.events[::-1], before=window.lt, known_until=read.known_until
            )
        return None

    async def close(self) -> None:
        """Cancel every request."""
        tasks = [window.task for window in self._windows if window.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, ahead: int) -> None:
        """Start reading the first windows, each with the best length."""
        place = 0
        while ahead > 0 and place < len(self._windows):
            window = self._windows[place]
            place += 1
            if window.is_kept:
                continue
            ahead -= 1
            if window.task is not None:
                continue
            seconds = max(1.0, window.seconds or self._seconds)
            # A short rest is read together with this window.
            if window.lt - window.gte > 1.5 * seconds:
                rest = _Window(gte=window.gte + int(seconds), lt=window.lt)
                window.lt = rest.gte
                self._windows.insert(place, rest)
            window.task = asyncio.create_task(self._read(window))

    def _learn(self, seconds: int, events: int) -> None:
        growth = min(_MOST_GROWTH, _WANTED_EVENTS / max(1, events))
        self._seconds = seconds * growth

    def _divide(self, window: _Window, read: _Read) -> None:
        """Put a window with too many events back as two."""
        if read.gte < window.lt:
            newest = _Window(gte=read.gte, lt=window.lt, read=read, is_kept=True)
        else:
            # Not even one second was read in full.
            newest = _Window(gte=window.lt - 1, lt=window.lt)
        oldest = _Window(gte=window.gte, lt=newest.gte)
        # The older part may be as dense as the newer one, or almost empty. The geometric mean of
        # the two lengths is soon corrected either way.
        as_dense = (newest.lt - newest.gte) * _WANTED_EVENTS / max(1, len(read.events))
        oldest.seconds = math.sqrt(as_dense * (oldest.lt - oldest.gte))
        if math.isinf(self._seconds):
            self._seconds = oldest.seconds
        self._windows.extendleft([newest, oldest])
        kept = 0
        for one in self._windows:
            if one.is_kept and one.read is not None:
                kept += len(one.read.events)
                if kept > AHEAD * MOST_EVENTS:
                    one.read, one.is_kept = None, False

    async def _read(self, window: _Window) -> None:
        for attempt in itertools.count(1):
            try:
                window.read = await self._read_once(window.gte, window.lt, window.is_first)
            except RequestFailed as error:
                if not error.is_lost_cursor or attempt == _ATTEMPTS:
                    raise
            else:
                return

    async def _read_once(self, gte: int, lt: int, is_first: asyncio.Event) -> _Read:
        page = await fetch_events(self._client, gte=gte, lt=lt)
        known_until, events = page.known_until, list(page.events)
        while page.has_more:
            reached = int(events[-1].head.created)
            expected = len(events) * (lt - gte) / max(1, lt - reached)
            if len(events) >= MOST_EVENTS or (self._is_thrifty and expected > _FAR_TOO_MANY):
                if lt - gte == 1:
                    break
                # The last second that was read is not complete.
                whole = [listed for listed in events if listed.head.created > reached]
                return _Read(gte=reached + 1, events=whole, known_until=known_until)
            page = await self._older(gte, lt, events[-1])
            events += page.events
        if not page.has_more:
            return _Read(gte=gte, events=events, known_until=known_until)
        await is_first.wait()
        oldest = await self._oldest(gte, lt, events[-1])
        return _Read(gte=gte, events=[], known_until=known_until, oldest=oldest)

    async def _older(self, gte: int, lt: int, than: ListedObject) -> EventPage:
        last = str(than.head.id)
        try:
            page = await fetch_events(self._client, gte=gte, lt=lt, starting_after=last)
        except EmptyPage:
            # Reads the cursor's second again without the cursor; that page contains the next
            # events.
            end = int(than.head.created) + 1
            narrower = await fetch_events(self._client, gte=gte, lt=end)
            page = _after(last, narrower)
            if not page.events and not narrower.has_more:
                return page
        if not page.events:
            raise _lost(last)
        return page

    async def _oldest(self, gte: int, lt: int, last: ListedObject) -> ListedObject:
        """Return the oldest event of a second, without keeping the others."""
        while True:
            page = await self._older(gte, lt, last)
            last = page.events[-1] if page.events else last
            if not page.has_more:
                return last

    async def _next_of_full_second(self, full: _FullSecond) -> EventGroup:
        """Return the next events of a second that is read from its oldest event on."""
        end = full.second + 1
        page = await fetch_events(self._client, gte=full.second, lt=end, ending_before=full.after)
        self._full = None
        if page.has_more:
            self._full = dataclasses.replace(full, after=str(page.events[0].head.id))
        return EventGroup(
            events=page.events[::-1],
            before=end if self._full is None else full.second,
            known_until=full.known_until,
        )


def _after(event_id: str, page: EventPage) -> EventPage:
    """Return the page without its events up to the given one.

    Raises:
        RequestFailed: The page does not hold the event.
    """
    ids = [listed.head.id for listed in page.events]
    if event_id not in ids:
        raise _lost(event_id)
    return dataclasses.replace(page, events=page.events[ids.index(event_id) + 1 :])


def _lost(event_id: str) -> RequestFailed:
    return RequestFailed(
        f"GET {EVENTS_PATH} promised more events than it gave after {event_id}",
        status=400,
        param="starting_after",
    )
