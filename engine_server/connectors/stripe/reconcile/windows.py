"""Which windows of time the pages of a stream have shown whole, and what is in them.

Parts of a list are read side by side, and each from its newest object on. What a page shows whole
is the time between its own oldest object and that of the page before it: all but the seconds of
these two, as more objects of one second may be on the next page. They are carried on to it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from engine_server.connectors.stripe.ranges import Range
from engine_server.connectors.stripe.reconcile.listing import Listing


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A time of which everything was listed.

    Attributes:
        gte: Inclusive lower bound in Unix seconds; None is no bound.
        lt: Exclusive upper bound; None is no bound.
        listed: The ids of what is in it, and of what is next to it.
    """

    gte: int | None
    lt: int | None
    listed: Mapping[str, int | None]


@dataclass(slots=True, kw_only=True)
class _Pages:
    """The pages of one part so far.

    Attributes:
        lt: What was created from here on is compared already, or is none of the part's.
        listed: What was seen and may lie before ``lt``.
    """

    lt: float
    listed: dict[str, int | None] = field(default_factory=dict)


class Windows:
    """The windows of one stream in one request.

    Attributes:
        has_gaps: Whether there were pages after which nothing could be compared: those of a list
            without an order whose first pages an earlier request read.
    """

    def __init__(self, *, by_time: bool) -> None:
        """``by_time`` is whether the objects, and what is held of them, tell when they were made.

        Where they do not, there is one window: all of the list.
        """
        self.has_gaps = False
        self._by_time = by_time
        # By what is left of their part.
        self._open: dict[Range, _Pages] = {}

    def after(self, part: Range, left: Sequence[Range], listing: Listing) -> Window | None:
        """What has been shown whole by a page; None when nothing was.

        Args:
            part: The part before the page.
            left: What is left of it after the page. The first of them goes on where the page ends.
            listing: The page.
        """
        pages = self._open.pop(part, None) or self._begun(part, listing.scope)
        if pages is None:
            self.has_gaps = True
            return None
        pages.listed.update(listing.created)
        if not left:
            return self._window(listing.scope.gte, pages)
        self._open[left[0]] = pages
        reached = left[0].compared_from
        if reached is None:
            # A page that is not newest first shows nothing whole. The end of the part will.
            return None
        window = self._window(reached, pages)
        pages.lt = min(pages.lt, reached)
        pages.listed = {
            object_id: created
            for object_id, created in pages.listed.items()
            if created is None or created < reached
        }
        return window

    def _begun(self, part: Range, scope: Range) -> _Pages | None:
        """The pages of a part none of whose pages this request has seen."""
        lt = math.inf if scope.lt is None else scope.lt
        if part.compared_from is not None and self._by_time:
            # What an earlier request saw of the last second is not known any more: it is retrieved.
            return _Pages(lt=min(lt, part.compared_from))
        return _Pages(lt=lt) if part.cursor is None else None

    def _window(self, gte: int | None, pages: _Pages) -> Window | None:
        if not self._by_time:
            return Window(gte=None, lt=None, listed=pages.listed)
        if gte is not None and gte >= pages.lt:
            return None
        lt = None if math.isinf(pages.lt) else int(pages.lt)
        return Window(gte=gte, lt=lt, listed=pages.listed)
