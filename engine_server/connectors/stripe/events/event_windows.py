"""The events of a span of time, oldest first, although Stripe lists them newest first.

The span is read window by window. A window is read whole, then turned round. Windows are as long as
the density of those before allows for some pages each, and a few are read ahead, so that latency
does not add up. A window that turns out to hold too much is read only as far as its beginning.
"""

import asyncio
import dataclasses
import itertools
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from engine_server.connectors.stripe.client import StripeClient
from engine_server.connectors.stripe.errors import RequestFailed
from engine_server.connectors.stripe.events.event_pages import (
    EVENTS_PATH,
    EventPage,
    fetch_events,
)
from engine_server.connectors.stripe.listed import ListedObject

# The most windows under way or waiting, and the most events that one of them holds.
AHEAD = 4
MOST_EVENTS = 1_000
_WANTED_EVENTS = MOST_EVENTS // 2
# So much longer than the one before a window may be: what was sparse may be dense from here on.
_MOST_GROWTH = 8
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


@dataclass(slots=True, kw_only=True, eq=False)
class _Window:
    """Seconds that are read together: [gte, lt)."""

    gte: int
    lt: int
    task: "asyncio.Task[_Read] | None" = None
    is_first: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Read:
    """What was read of a window: the seconds before ``lt``, or none of a second that is too full.

    Attributes:
        events: Newest first.
        lt: Where it ends; the rest is still to be read.
        known_until: As of ``EventGroup``.
        oldest: The oldest event of a second that holds more than is to be held at once; else None.
    """

    events: list[ListedObject]
    lt: int
    known_until: int
    oldest: ListedObject | None = None


@dataclass(frozen=True, slots=True)
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
        # Where a full second is gone on with.
        self._full: _FullSecond | None = None

    @property
    def is_over(self) -> bool:
        """Whether everything is handed out."""
        return not self._windows and self._full is None

    async def next(self, ahead: int = AHEAD) -> EventGroup | None:
        """The next events; None when there are no more.

        Args:
            ahead: The most windows to read at once, the next one included; at least 1.

        Raises:
            EventsUnreadable: the key may not read events.
            ConnectionFailed: see ``StripeClient.get``.
            RequestFailed: the same.
        """
        if self._full is not None:
            return await self._next_of_full_second(self._full)
        if not self._windows:
            return None
        self._start(ahead)
        window = self._windows[0]
        window.is_first.set()
        read = await self._reading(window)
        self._windows.popleft()
        if read.lt < window.lt:
            self._windows.appendleft(_Window(gte=read.lt, lt=window.lt))
        if read.oldest is not None:
            self._seconds = 1
            self._full = _FullSecond(window.gte, read.known_until, str(read.oldest.head.id))
            return EventGroup(events=[read.oldest], before=window.gte, known_until=read.known_until)
        self._learn(read.lt - window.gte, len(read.events))
        # Those that wait are read while this one is worked on.
        self._start(ahead - 1)
        return EventGroup(events=read.events[::-1], before=read.lt, known_until=read.known_until)

    async def close(self) -> None:
        """Ends every request."""
        tasks = [window.task for window in self._windows if window.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, ahead: int) -> None:
        """Begins the first windows that are not begun, each as long as is worth it."""
        number = 0
        while number < min(ahead, len(self._windows)):
            window = self._windows[number]
            number += 1
            if window.task is not None:
                continue
            end = window.gte + self._seconds
            # A rest that is hardly worth a request of its own is read along.
            if window.lt > end + self._seconds / 2:
                rest = _Window(gte=int(end), lt=window.lt)
                window.lt = rest.gte
                self._windows.insert(number, rest)
            self._reading(window)

    def _reading(self, window: _Window) -> "asyncio.Task[_Read]":
        if window.task is None:
            window.task = asyncio.create_task(self._read(window))
        return window.task

    def _learn(self, seconds: int, events: int) -> None:
        growth = min(_MOST_GROWTH, _WANTED_EVENTS / max(1, events))
        self._seconds = max(1, math.floor(seconds * growth))

    async def _read(self, window: _Window) -> _Read:
        for attempt in itertools.count(1):
            try:
                return await self._read_once(window)
            except RequestFailed as error:
                if not error.is_lost_cursor or attempt == _ATTEMPTS:
                    raise
        raise AssertionError("count() does not end")

    async def _read_once(self, window: _Window) -> _Read:
        gte, lt = window.gte, window.lt
        page = await fetch_events(self._client, gte=gte, lt=lt)
        known_until, events = page.known_until, list(page.events)
        while page.has_more:
            oldest = events[-1]
            told = lt - max(gte, int(oldest.head.created))
            expected = len(events) * (lt - gte) / max(1, told)
            if lt - gte == 1:
                if len(events) >= MOST_EVENTS:
                    await window.is_first.wait()
                    last = await self._oldest(gte, lt, oldest)
                    return _Read(events=[], lt=lt, known_until=known_until, oldest=last)
            elif expected >= MOST_EVENTS:
                # The newest of it are read already, but what comes first must be handed out first.
                lt = gte + max(1, int((lt - gte) * _WANTED_EVENTS / expected))
                page = await fetch_events(self._client, gte=gte, lt=lt)
                known_until, events = page.known_until, list(page.events)
                continue
            page = await self._older(gte, lt, oldest)
            events += page.events
        return _Read(events=events, lt=lt, known_until=known_until)

    async def _older(self, gte: int, lt: int, than: ListedObject) -> EventPage:
        page = await fetch_events(self._client, gte=gte, lt=lt, starting_after=str(than.head.id))
        if not page.events:
            raise RequestFailed(
                f"GET {EVENTS_PATH} promised more events than it gave after {than.head.id}",
                status=400,
                param="starting_after",
            )
        return page

    async def _oldest(self, gte: int, lt: int, last: ListedObject) -> ListedObject:
        """The oldest event of a second, whose events are not kept on the way there."""
        while True:
            page = await self._older(gte, lt, last)
            last = page.events[-1]
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
