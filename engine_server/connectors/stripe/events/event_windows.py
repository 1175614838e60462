"""The events of a span of time, oldest first, although Stripe lists them newest first.

The span is read window by window. A window is read whole, then turned round. Windows are as long as
the density of those before allows for some pages each, and a few are read ahead, so that latency
does not add up. Of a window that turns out to hold too much, the newest part that was read is kept
for later, and its beginning is tried in a shorter one.
"""

import asyncio
import dataclasses
import itertools
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from engine_server.connectors.stripe.client import StripeClient
from engine_server.connectors.stripe.empty_pages import EmptyPage
from engine_server.connectors.stripe.errors import RequestFailed
from engine_server.connectors.stripe.events.event_pages import (
    EVENTS_PATH,
    EventPage,
    fetch_events,
)
from engine_server.connectors.stripe.listed import ListedObject

# The most windows that are read ahead, and the most events that one of them holds. What is kept for
# later holds as many again.
AHEAD = 4
MOST_EVENTS = 1_000
_WANTED_EVENTS = MOST_EVENTS // 2
# So much longer than the one before a window may be: what was sparse may be dense from here on.
_MOST_GROWTH = 8
# Where few windows will be taken, one that is thought to hold so many is given up after a page.
_FAR_TOO_MANY = 2 * MOST_EVENTS
# How often a window is begun anew when Stripe loses its place in it.
_ATTEMPTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class EventGroup:
    """Events that follow on those handed out before.

    Attributes:
        events: Oldest first; of one second in the order in which they were made.
        before: With them, all that were listed of those made before this second are handed out.
        known_until: The last Unix second that was over when they were asked for: of any that shows
            up later, the list may not have told.
    """

    events: Sequence[ListedObject]
    before: int
    known_until: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Read:
    """What was read of a window: all of it, or its newest part.

    Attributes:
        gte: The first second of that part.
        events: Newest first.
        known_until: As of ``EventGroup``.
        oldest: The oldest event of the window where it is a second that holds more than is to be
            held at once; else None.
    """

    gte: int
    events: Sequence[ListedObject]
    known_until: int
    oldest: ListedObject | None = None


@dataclass(slots=True, kw_only=True, eq=False)
class _Window:
    """Seconds that are read together: [gte, lt).

    Attributes:
        gte: The first of them.
        lt: The one after the last.
        seconds: How many of them to try first; None when only those before it tell.
        task: Reads it; None when that is not begun.
        read: What was read; None when that is not done.
        is_kept: That came about when a longer window was read.
        is_first: Set once it is the next to be handed out.
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
        known_until: As of ``EventGroup``.
        after: The id of the last event that was handed out.
    """

    second: int
    known_until: int
    after: str


class EventWindows:
    """Hands out the events made in [gte, lt), in groups; whoever opens it closes it."""

    def __init__(self, client: StripeClient, *, gte: int, lt: int) -> None:
        """Reads nothing yet."""
        self._client = client
        self._windows = deque([_Window(gte=gte, lt=lt)] if gte < lt else [])
        # How many seconds of a window are worth it; unknown before the first.
        self._seconds = math.inf
        self._is_thrifty = False
        self._full: _FullSecond | None = None

    @property
    def is_over(self) -> bool:
        """Whether everything is handed out."""
        return not self._windows and self._full is None

    async def next(self, ahead: int = AHEAD) -> EventGroup | None:
        """The next events; None when there are no more.

        Args:
            ahead: The most windows to read at once, the next one included; at least 1. With less
                than ``AHEAD``, little is read of what will hardly be handed out.

        Raises:
            EventsUnreadable: the key may not read events.
            ConnectionFailed: see ``StripeClient.get``.
            RequestFailed: the same.
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
            # Those that wait are read while this one is worked on.
            self._start(ahead - 1)
            return EventGroup(
                events=read.events[::-1], before=window.lt, known_until=read.known_until
            )
        return None

    async def close(self) -> None:
        """Ends every request."""
        tasks = [window.task for window in self._windows if window.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, ahead: int) -> None:
        """Begins the first windows that are not begun, each as long as is worth it."""
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
            # A rest that is hardly worth a request of its own is read along.
            if window.lt - window.gte > 1.5 * seconds:
                rest = _Window(gte=window.gte + int(seconds), lt=window.lt)
                window.lt = rest.gte
                self._windows.insert(place, rest)
            window.task = asyncio.create_task(self._read(window))

    def _learn(self, seconds: int, events: int) -> None:
        growth = min(_MOST_GROWTH, _WANTED_EVENTS / max(1, events))
        self._seconds = seconds * growth

    def _divide(self, window: _Window, read: _Read) -> None:
        """Puts a window that holds too much back, in two parts."""
        if read.gte < window.lt:
            newest = _Window(gte=read.gte, lt=window.lt, read=read, is_kept=True)
        else:
            # Not even one second was read whole.
            newest = _Window(gte=window.lt - 1, lt=window.lt)
        oldest = _Window(gte=window.gte, lt=newest.gte)
        # It may be as dense as what was read, or hold next to nothing: in between lies the length
        # that is soon corrected either way.
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
                # The second that was reached is not whole.
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
            # Without the cursor, down from its second: that page holds what follows it there.
            end = int(than.head.created) + 1
            narrower = await fetch_events(self._client, gte=gte, lt=end)
            page = _after(last, narrower)
            if not page.events and not narrower.has_more:
                return page
        if not page.events:
            raise _lost(last)
        return page

    async def _oldest(self, gte: int, lt: int, last: ListedObject) -> ListedObject:
        """The oldest event of a second, whose events are not kept on the way there."""
        while True:
            page = await self._older(gte, lt, last)
            last = page.events[-1] if page.events else last
            if not page.has_more:
                return last

    async def _next_of_full_second(self, full: _FullSecond) -> EventGroup:
        """The events next to one, in a second that is read from its oldest event on."""
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
    """The page without its events up to one.

    Raises:
        RequestFailed: it does not hold that one.
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
