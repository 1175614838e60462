"""Windows of time that the pages of a stream cover completely, and their objects.

Parts of a list are read in parallel, each from its newest object on. A page covers the time between
its own oldest object and that of the page before it, without the seconds of these two: the next
page may hold more objects of those seconds, so they are carried over to it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from engine_server.connectors.stripe.lists.fetched_page import Listing
from engine_server.connectors.stripe.lists.ranges import Range


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A time range whose objects were all listed.

    Attributes:
        gte: Inclusive lower bound in Unix seconds; None for no bound.
        lt: Exclusive upper bound; None for no bound.
        listed: The ids of the objects in it and next to it.
    """

    gte: int | None
    lt: int | None
    listed: Mapping[str, int | None]


@dataclass(slots=True, kw_only=True)
class _Pages:
    """The pages of one part so far.

    Attributes:
        lt: Objects created from here on are compared already, or belong to another part.
        listed: The listed objects that may lie before ``lt``.
    """

    lt: float
    listed: dict[str, int | None] = field(default_factory=dict)


class Windows:
    """The windows of one stream in one request.

    Attributes:
        has_gaps: Whether some pages could not be compared: those of an unordered list whose first
            pages an earlier request read.
    """

    def __init__(self, *, by_time: bool) -> None:
        """Start without pages.

        Args:
            by_time: Whether the creation times of the objects and of the held records are known.
                Otherwise the whole list is one window.
        """
        self.has_gaps = False
        self._by_time = by_time
        # By the rest of their part.
        self._open: dict[Range, _Pages] = {}

    def after(self, part: Range, left: Sequence[Range], listing: Listing) -> Window | None:
        """Return the window that a page completes; None if it completes none.

        Args:
            part: The part before the page.
            left: The rest of the part after the page. The first range continues where the page
                ends.
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
            # A page that is not newest first completes no window; the end of the part does.
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
        """Return the pages of a part that this request has not read from yet."""
        lt = math.inf if scope.lt is None else scope.lt
        if part.compared_from is not None and self._by_time:
            # Objects of the last second that an earlier request listed are unknown here, and are
            # retrieved.
            return _Pages(lt=min(lt, part.compared_from))
        return _Pages(lt=lt) if part.cursor is None else None

    def _window(self, gte: int | None, pages: _Pages) -> Window | None:
        if not self._by_time:
            return Window(gte=None, lt=None, listed=pages.listed)
        if gte is not None and gte >= pages.lt:
            return None
        lt = None if math.isinf(pages.lt) else int(pages.lt)
        return Window(gte=gte, lt=lt, listed=pages.listed)
