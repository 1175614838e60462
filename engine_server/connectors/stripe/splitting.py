"""Where a stream's ranges are cut so that their parts can be read side by side.

A cut is a bet on objects that were not seen yet. Every part ends with a page that is not full, so
each costs about half a request, and a whole one where there was nothing. The bets are small while
little is known, and together never cost more than a small share of the pages.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from engine_server.connectors.stripe.ranges import Range

_WASTE_PER_PART = 0.5

# Objects not seen yet are believed in with caution: so many pages for each page that was read.
_TRUST_PER_PAGE = 5

# A part is cut when it holds this many times the pages that each request in flight would have if
# all were shared out evenly; a part of fewer pages is not worth its request.
_UNEVENNESS = 1.5
_FEWEST_PAGES = 2
_SMALLEST_SHARE = 1.5

# The density seen on one page does not hold for ever. So the part next to it is worth so many
# pages, or this share of those read, each older one at most twice as many as the one before it.
_NEAREST_PAGES = 24
_NEAREST_SHARE = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What the cuts of a stream may cost.

    Attributes:
        share: Of the stream's pages, what may go into requests that bring less than a page.
        pages: What may go into them besides.
        first_parts: How many parts the first page may leave: what it and its followers show guides
            the cuts that come then.
        trusted_share: Of the pages that the density promises, those that are believed in however
            few were read.
    """

    share: float
    pages: int
    first_parts: int
    trusted_share: float


# Requests are what is scarce: the goal is at most 5% more than there are pages.
SPARING = Budget(share=0.035, pages=1, first_parts=6, trusted_share=1 / 4)
# Where nobody counts requests, time is.
LAVISH = Budget(share=0.08, pages=2, first_parts=31, trusted_share=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What could be read side by side at this moment.

    Attributes:
        parts: How many ranges more than there are now.
        lanes: How many ranges in all, of all streams.
        pages: How many pages they are thought to hold, the range to be cut left out.
        budget: What cuts may cost.
    """

    parts: int
    lanes: int
    pages: float
    budget: Budget = SPARING


class Splitting:
    """What is thought to be left of one stream, and what its cuts have cost so far."""

    def __init__(self, *, page_size: int, since: int) -> None:
        """``since`` is when its history is thought to begin, in Unix seconds.

        Nothing older is lost by it: the oldest part keeps no lower bound.
        """
        self._page_size = page_size
        self._since = since
        self._pages_read = 0
        self._records_read = 0
        self._estimates: dict[Range, float] = {}

    @property
    def pages(self) -> float:
        """The pages that its ranges are thought to hold, as far as anything is known of them."""
        return sum(self._estimates.values())

    def go_on(self, part: Range, rest: Range) -> None:
        """Only some of a page was taken: ``rest`` holds the others, too."""
        self._estimates[rest] = self._estimates.pop(part, 0.0)

    def keep(self, part: Range, rest: Range, record_count: int) -> None:
        """A page of ``part`` left ``rest``, which shows nothing new of its density."""
        self._estimates[rest] = self._read(part, record_count)

    def end(self, part: Range, record_count: int) -> None:
        """The last page of ``part`` was read."""
        self._read(part, record_count)

    def split(
        self,
        part: Range,
        rest: Range,
        scope: Range,
        times: Sequence[int],
        room: Room,
        *,
        open_parts: int,
    ) -> tuple[Range, ...]:
        """Cuts what is left of a range after a page, newest part first.

        The first part goes on from the cursor: it keeps the upper bound, and the cursor's own
        object lies within it, so the cursor stays good. Several objects of its second are then no
        matter.

        Args:
            part: The range before the page.
            rest: What is left of it, as it was asked for; it goes on from the page's last object.
            scope: The window to cut, if ``rest`` was asked for without it.
            times: When the objects of the page were created, newest first.
            room: What could be read side by side.
            open_parts: How many other ranges of the stream are still to be read.

        Returns:
            Ranges that cover what of ``rest`` lies in ``scope``, at most ``room.parts`` more than
            one; ``rest`` alone when it is too thin, or when cutting it would cost too much.
        """
        believed = self._read(part, len(times))
        oldest = times[-1]
        seconds = _seconds_per_page(times)
        lower = min(self._since if scope.gte is None else scope.gte, oldest)
        # A page of one second shows no density.
        pages = (oldest - lower) / seconds if seconds else believed
        count = self._parts(pages, room, open_parts)
        if count < 2:
            borders = []
        elif seconds:
            borders = self._borders(oldest, lower, seconds, pages / count, count - 1)
        else:
            # What is left of the second is read one page after another, what is older beside it.
            borders = [oldest] if oldest > lower else []
        if not borders:
            self._estimates[rest] = pages
            return (rest,)
        parts = _cut(scope.with_cursor(rest.cursor, rest.compared_from), borders)
        for newer, top, bottom in zip(parts, [oldest, *borders], borders, strict=False):
            self._estimates[newer] = (top - bottom) / seconds if seconds else 1.0
            pages -= self._estimates[newer]
        self._estimates[parts[-1]] = max(pages, 0.0)
        return parts

    def _read(self, part: Range, record_count: int) -> float:
        """Counts a page; what the rest of its range was thought to hold before it was seen."""
        self._pages_read += 1
        self._records_read += record_count
        return max(self._estimates.pop(part, 0.0) - 1, 0.0)

    def _parts(self, pages: float, room: Room, open_parts: int) -> int:
        share = max((room.pages + pages) / room.lanes, _SMALLEST_SHARE)
        if pages < _FEWEST_PAGES or pages < _UNEVENNESS * share:
            return 1
        return min(
            1 + room.parts,
            math.ceil(pages / share),
            self._affordable_parts(pages, room.budget) - open_parts,
        )

    def _affordable_parts(self, pages: float, budget: Budget) -> int:
        """How many parts the stream may be in, each wasting what a last page does."""
        promised = pages + self.pages
        believed = max(_TRUST_PER_PAGE * self._pages_read, budget.trusted_share * promised)
        total = self._pages_read + min(promised, believed)
        wasted = self._pages_read - self._records_read / self._page_size
        affordable = (budget.pages + budget.share * total - wasted) / _WASTE_PER_PART
        return min(int(affordable), budget.first_parts + self._pages_read)

    def _borders(
        self, oldest: int, lower: int, seconds: float, pages_each: float, count: int
    ) -> list[int]:
        nearest = max(_NEAREST_PAGES, _NEAREST_SHARE * self._pages_read)
        borders = []
        border = float(oldest)
        for number in range(count):
            border -= seconds * min(pages_each, nearest * 2**number)
            if int(border) <= lower:
                break
            borders.append(int(border))
        return borders


def _cut(whole: Range, borders: Sequence[int]) -> tuple[Range, ...]:
    """The parts of ``whole`` between the borders, newest first; the first keeps the cursor."""
    uppers = [whole.lt, *borders]
    lowers = [*borders, whole.gte]
    newest, *older = (Range(gte=gte, lt=lt) for gte, lt in zip(lowers, uppers, strict=True))
    return newest.with_cursor(whole.cursor, whole.compared_from), *older


def _seconds_per_page(times: Sequence[int]) -> float:
    """How much time the next page may span, going by the half of a page that is next to it.

    What went before, such as thousands of objects in one second, may be over.
    """
    whole = times[0] - times[-1]
    half = times[len(times) // 2] - times[-1]
    return max(whole, 2 * half)
