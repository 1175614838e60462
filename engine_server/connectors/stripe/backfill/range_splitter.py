"""Splits a stream's ranges so that their parts can be read in parallel.

A split is a bet on objects not seen yet. Every part ends with a partly filled page, so it costs
about half a request, and a whole one if it is empty. Bets are small while little is known about the
stream, and in total never cost more than a small share of its pages.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from engine_server.connectors.stripe.lists.ranges import Range

_WASTE_PER_PART = 0.5

# Unread pages are trusted cautiously: this many for each page read.
_TRUST_PER_PAGE = 5

# A part is split when it holds this many times the pages that each request in flight would have if
# all pages were shared evenly. A part with fewer pages is not worth its request.
_UNEVENNESS = 1.5
_FEWEST_PAGES = 2
_SMALLEST_SHARE = 1.5

# The density of one page does not last for ever. The part next to the page therefore gets this many
# pages, or this share of the pages read, and each older part at most twice as many as the one
# before it.
_NEAREST_PAGES = 24
_NEAREST_SHARE = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Limits on the cost of splitting a stream.

    Attributes:
        share: Share of the stream's pages that may go into requests with less than a full page.
        pages: Pages that may go into such requests in addition.
        first_parts: Parts that the first page may leave. Later splits are guided by more pages.
        trusted_share: Share of the pages expected from the density that is trusted however few
            pages were read.
    """

    share: float
    pages: int
    first_parts: int
    trusted_share: float


# Requests are scarce: at most 5% more requests than pages.
PACED = Budget(share=0.035, pages=1, first_parts=6, trusted_share=1 / 4)
# Without a rate limit, time matters more than requests.
UNPACED = Budget(share=0.08, pages=2, first_parts=31, trusted_share=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """Capacity for parallel reads at this moment.

    Attributes:
        parts: Number of ranges that may be added.
        slots: Number of ranges in all, of all streams.
        pages: Estimated pages in all ranges, without the range to split.
        budget: Limits on the cost of splitting.
    """

    parts: int
    slots: int
    pages: float
    budget: Budget = PACED


class RangeSplitter:
    """Estimates of the unread pages of one stream, and the cost of its splits so far."""

    def __init__(self, *, page_size: int, since: int) -> None:
        """Start without any page read.

        Args:
            page_size: Objects on a full page.
            since: Estimated beginning of the history, in Unix seconds. Older objects are read all
                the same: the oldest part keeps its lower bound, or none.
        """
        self._page_size = page_size
        self._since = since
        self._pages_read = 0
        self._records_read = 0
        self._estimates: dict[Range, float] = {}

    @property
    def pages(self) -> float:
        """The estimated number of pages in the stream's ranges."""
        return sum(self._estimates.values())

    def keep_estimate(self, part: Range, rest: Range) -> None:
        """Move the estimate of ``part`` to ``rest``, of which the page was taken only in part."""
        self._estimates[rest] = self._estimates.pop(part, 0.0)

    def advance(self, part: Range, rest: Range, record_count: int) -> None:
        """Count a page of ``part`` that leaves ``rest`` and tells nothing new about its density."""
        self._estimates[rest] = self._read(part, record_count)

    def finish(self, part: Range, record_count: int) -> None:
        """Count the last page of ``part``."""
        self._read(part, record_count)

    def split(
        self,
        part: Range,
        rest: Range,
        scope: Range,
        times: Sequence[int],
        capacity: Capacity,
        *,
        open_ranges: int,
    ) -> tuple[Range, ...]:
        """Split the rest of a range after a page, newest part first.

        The first part continues from the cursor. It keeps the upper bound, and the object of the
        cursor lies within it, so the cursor stays valid. Several objects in the same second do no
        harm.

        Args:
            part: The range before the page.
            rest: The rest of the range as it was requested; it continues after the page's last
                object.
            scope: The window to split, if ``rest`` was requested without one.
            times: Creation times of the page's objects, newest first.
            capacity: How many ranges can be read in parallel.
            open_ranges: Number of other ranges of the stream still to be read.

        Returns:
            Ranges that cover the part of ``rest`` within ``scope``, at most ``capacity.parts`` more
            than one; ``rest`` alone if it is too sparse or splitting it would cost too much.
        """
        believed = self._read(part, len(times))
        oldest = times[-1]
        seconds = _seconds_per_page(times)
        lower = min(self._since if scope.gte is None else scope.gte, oldest)
        # A page within one second shows no density.
        pages = (oldest - lower) / seconds if seconds else believed
        count = self._parts(pages, capacity, open_ranges)
        if count < 2:
            split_points = []
        elif seconds:
            split_points = self._split_points(oldest, lower, seconds, pages / count, count - 1)
        else:
            # The rest of the second is read page by page, everything older in parallel.
            split_points = [oldest] if oldest > lower else []
        if not split_points:
            self._estimates[rest] = pages
            return (rest,)
        parts = _cut(scope.with_cursor(rest.cursor, rest.compared_from), split_points)
        for newer, top, bottom in zip(parts, [oldest, *split_points], split_points, strict=False):
            self._estimates[newer] = (top - bottom) / seconds if seconds else 1.0
            pages -= self._estimates[newer]
        self._estimates[parts[-1]] = max(pages, 0.0)
        return parts

    def _read(self, part: Range, record_count: int) -> float:
        """Count a page and return the pages that the rest of its range was expected to hold."""
        self._pages_read += 1
        self._records_read += record_count
        return max(self._estimates.pop(part, 0.0) - 1, 0.0)

    def _parts(self, pages: float, capacity: Capacity, open_ranges: int) -> int:
        share = max((capacity.pages + pages) / capacity.slots, _SMALLEST_SHARE)
        if pages < _FEWEST_PAGES or pages < _UNEVENNESS * share:
            return 1
        return min(
            1 + capacity.parts,
            math.ceil(pages / share),
            self._affordable_parts(pages, capacity.budget) - open_ranges,
        )

    def _affordable_parts(self, pages: float, budget: Budget) -> int:
        """Return how many ranges the stream can afford, each with a partly filled last page."""
        promised = pages + self.pages
        believed = max(_TRUST_PER_PAGE * self._pages_read, budget.trusted_share * promised)
        total = self._pages_read + min(promised, believed)
        wasted = self._pages_read - self._records_read / self._page_size
        affordable = (budget.pages + budget.share * total - wasted) / _WASTE_PER_PART
        return min(int(affordable), budget.first_parts + self._pages_read)

    def _split_points(
        self, oldest: int, lower: int, seconds: float, pages_each: float, count: int
    ) -> list[int]:
        nearest = max(_NEAREST_PAGES, _NEAREST_SHARE * self._pages_read)
        split_points = []
        split_point = float(oldest)
        for number in range(count):
            split_point -= seconds * min(pages_each, nearest * 2**number)
            if int(split_point) <= lower:
                break
            split_points.append(int(split_point))
        return split_points


def _cut(whole: Range, split_points: Sequence[int]) -> tuple[Range, ...]:
    """Return the parts of ``whole``, newest first; the first keeps the cursor."""
    uppers = [whole.lt, *split_points]
    lowers = [*split_points, whole.gte]
    newest, *older = (Range(gte=gte, lt=lt) for gte, lt in zip(lowers, uppers, strict=True))
    return newest.with_cursor(whole.cursor, whole.compared_from), *older


def _seconds_per_page(times: Sequence[int]) -> float:
    """Estimate the time span of the next page from the adjacent half of this one.

    Earlier objects, such as thousands in one second, may be an exception.
    """
    whole = times[0] - times[-1]
    half = times[len(times) // 2] - times[-1]
    return max(whole, 2 * half)
