"""Reader of the pages of a range that handles unsupported filters and lost cursors."""

import dataclasses
import itertools
from operator import attrgetter

from engine_server.connectors.stripe.api.client import StripeClient
from engine_server.connectors.stripe.api.clock import ServerClock
from engine_server.connectors.stripe.api.errors import RequestFailed
from engine_server.connectors.stripe.catalog.streams import Resource
from engine_server.connectors.stripe.lists.empty_pages import EmptyPage
from engine_server.connectors.stripe.lists.list_page import ListedObject
from engine_server.connectors.stripe.lists.pages import Page, fetch_object, fetch_page
from engine_server.connectors.stripe.lists.ranges import Range
from engine_server.text import is_storable

# A window that ends less than this many seconds ago includes the newest objects: its first page is
# requested without a filter. That page completes most lists, filterable or not.
_NEWEST_SECONDS = 3600

# Completing the lists inside objects may take many requests. A checkpoint after this many such
# objects lets a request with little time make progress.
_OPEN_OBJECTS_AT_ONCE = 10


class RangeReader:
    """Reads the ranges of one list."""

    def __init__(self, resource: Resource, window: Range, *, is_open: bool = False) -> None:
        """Store the arguments; nothing is read yet.

        Args:
            resource: How the list is read.
            window: The window that the ranges are parts of.
            is_open: Whether objects newer than the window are included.
        """
        self._resource = resource
        self._window = window
        self._is_open = is_open
        self._created = attrgetter(resource.created_field)
        # Ranges that were restarted and have not passed their first page since.
        self._restarted: set[Range] = set()
        # The rest of responses that were cut, by the bounds and cursor where they continue.
        self._cut: dict[Range, tuple[Page, Range]] = {}
        # Whether every page so far was newest first; None before the first one.
        self._is_newest_first: bool | None = None
        # Cursors after which a v1 list promised more but was empty.
        self._dead_cursors: set[str] = set()
        # The cursors requested since a page last held objects.
        self._passed_cursors: set[str] = set()

    async def next_page(self, client: StripeClient, part: Range, size: int) -> tuple[Page, Range]:
        """Return the next page of ``part``, or some of it, and the range actually requested.

        Raises:
            ConnectionFailed: See ``StripeClient.get``.
            RequestFailed: See ``StripeClient.get``.
        """
        place = part.with_cursor(part.cursor)
        if place in self._cut:
            page, asked = self._cut.pop(place)
        else:
            page, asked = await self._fetch(client, part, size)
        end = _end_of_first_part(page)
        if end == len(page.objects):
            return page, asked
        cursor = str(page.objects[end - 1].head.id)
        rest = dataclasses.replace(page, objects=page.objects[end:], whole=page.whole or page)
        self._cut[asked.with_cursor(cursor)] = rest, asked
        first = dataclasses.replace(
            page, objects=page.objects[:end], next_cursor=cursor, is_cut=True
        )
        return first, asked

    async def _fetch(self, client: StripeClient, part: Range, size: int) -> tuple[Page, Range]:
        holds_newest = self._holds_newest(part, client.clock)
        if holds_newest:
            newest = await self._newest(client, size)
            # A later window is small; if it is not, its own filter is better.
            if newest is not None and (
                part.with_cursor(None) == self._window or not self._goes_on(part, newest)
            ):
                return self._noted(newest), Range()
        if part.cursor is None:
            page, asked = await self._first_page(client, part, size, holds_newest=holds_newest)
            return self._noted(page), asked
        try:
            page, asked = await self._page_after_cursor(client, part, part.cursor, size), part
        except EmptyPage as error:
            page, asked = await self._page_by_bounds(client, part, part.cursor, size, error)
        return self._noted(page), asked

    def objects_in(self, scope: Range, page: Page) -> list[ListedObject]:
        """Return the page's objects created in ``scope``, or at an unknown time."""
        times = page.times_newest_first
        # The usual case: only the newest page is requested without bounds.
        if times and scope.contains(times[0]) and scope.contains(times[-1]):
            return page.objects
        created = self._created
        return [listed for listed in page.objects if _is_within(scope, created(listed.head))]

    async def _newest(self, client: StripeClient, size: int) -> Page | None:
        """Return the newest page of the list; None if it stays empty although it promises more."""
        try:
            return await fetch_page(client, self._resource, Range(), size)
        except EmptyPage:
            return None

    async def _first_page(
        self, client: StripeClient, part: Range, size: int, *, holds_newest: bool
    ) -> tuple[Page, Range]:
        """Return the first page of a range, without its end if newer objects are included."""
        if holds_newest and self._is_open:
            asked = Range(gte=part.gte)
            try:
                return await fetch_page(client, self._resource, asked, size), asked
            except EmptyPage:
                # A later run reads the newer ones.
                pass
        return await fetch_page(client, self._resource, part, size), part

    async def _page_by_bounds(
        self, client: StripeClient, part: Range, cursor: str, size: int, error: EmptyPage
    ) -> tuple[Page, Range]:
        """Read on by creation time if the list is empty after its cursor.

        Raises:
            EmptyPage: ``error``, if the list cannot be filtered by time; or another empty page.
            ConnectionFailed: See ``StripeClient.get``.
            RequestFailed: See ``StripeClient.get``.
        """
        if not self._resource.created_param:
            raise error
        if not part.is_bounded and self._window.is_bounded:
            bounded = self._window.with_cursor(cursor, part.compared_from)
            try:
                page = await fetch_page(client, self._resource, bounded, size)
            except EmptyPage as refused:
                error = refused
            else:
                # With other bounds, an empty page may only mean that the cursor lies outside them.
                if page.objects:
                    return page, bounded
        bounds = part if part.is_bounded else self._window
        if self._is_newest_first:
            # All objects newer than the cursor's were read, and those of its second in part.
            record = await fetch_object(client, self._resource, cursor)
            created = record.get(self._resource.created_field) if record is not None else None
            if type(created) is int and (bounds.lt is None or created + 1 < bounds.lt):
                rest = Range(gte=bounds.gte, lt=created + 1)
                return await fetch_page(client, self._resource, rest, size), rest
        if cursor in self._dead_cursors:
            raise error
        # The order of the earlier pages is unknown: only the start of the bounds is safe.
        self._dead_cursors.add(cursor)
        start = bounds.with_cursor(None)
        return await fetch_page(client, self._resource, start, size), start

    def _noted(self, page: Page) -> Page:
        if page.objects:
            is_newest_first = bool(page.times_newest_first)
            self._is_newest_first = is_newest_first and self._is_newest_first is not False
        return page

    def _refuse_loop(self, cursor: str, page: Page) -> None:
        """Raise if a list returns to an earlier position.

        Raises:
            RequestFailed: The page continues after its own cursor, or after that of an empty page
                before it.
        """
        if page.objects:
            self._passed_cursors.clear()
        self._passed_cursors.add(cursor)
        if page.next_cursor in self._passed_cursors:
            param = "starting_after" if self._resource.api == "v1" else "page"
            raise RequestFailed(
                f"GET {self._resource.path}?{param}={cursor} was answered with a page that "
                f"continues at {page.next_cursor}, an earlier position: its pages never end",
                status=200,
            )

    def _holds_newest(self, part: Range, clock: ServerClock) -> bool:
        return (
            bool(self._resource.created_param)
            and part.cursor is None
            and part.lt is not None
            and part.lt == self._window.lt
            and (self._is_open or part.lt > clock.earliest() - _NEWEST_SECONDS)
        )

    def _goes_on(self, part: Range, newest: Page) -> bool:
        """Return whether more of ``part`` follows the newest page of a list in that order."""
        times = newest.times_newest_first
        if newest.next_cursor is None or not times:
            return False
        return part.gte is None or times[-1] >= part.gte

    async def _page_after_cursor(
        self, client: StripeClient, part: Range, cursor: str, size: int
    ) -> Page:
        start = part.with_cursor(None)
        try:
            page = await fetch_page(client, self._resource, part, size)
        except RequestFailed as error:
            # A server that refuses every cursor would restart the range for ever.
            if not error.is_lost_cursor or start in self._restarted:
                raise
        else:
            # An empty page is valid if a split left no objects to the cursor's part. A v2 cursor is
            # a token and no object's id; it is valid as long as the list accepts it.
            is_token = self._resource.api != "v1"
            if page.objects or is_token or await self._is_there(client, part, cursor):
                self._restarted.discard(start)
                self._refuse_loop(cursor, page)
                return page
            if start in self._restarted:
                raise RequestFailed(
                    f"GET {self._resource.path} finds nothing after {cursor}, which no "
                    "longer exists, although its range was restarted",
                    status=200,
                )
        # The cursor's object was deleted. Only the start of the range is sure to exist.
        self._restarted.add(start)
        return await fetch_page(client, self._resource, start, size)

    async def _is_there(self, client: StripeClient, part: Range, cursor: str) -> bool:
        record = await fetch_object(client, self._resource, cursor)
        return record is not None and _is_within(part, record.get(self._resource.created_field))


def _is_within(scope: Range, created: object) -> bool:
    return type(created) is not int or scope.contains(created)


def _end_of_first_part(page: Page) -> int:
    """Return how many objects of a page to take at once."""
    if not page.has_open_lists:
        return len(page.objects)
    # A cursor must be an id that a checkpoint can hold.
    open_objects = (
        number
        for number, listed in enumerate(page.objects, start=1)
        if listed.head.id is not None and is_storable(str(listed.head.id)) and listed.has_open_list
    )
    return next(itertools.islice(open_objects, _OPEN_OBJECTS_AT_ONCE - 1, None), len(page.objects))
