"""The fetching side of one stream's backfill: which page comes next, and what it leaves to read."""

import dataclasses
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from engine_server.connectors.stripe.catalog import Resource
from engine_server.connectors.stripe.checkpoint import Checkpoint
from engine_server.connectors.stripe.client import StripeClient
from engine_server.connectors.stripe.errors import RequestFailed
from engine_server.connectors.stripe.pages import Page, fetch_object, fetch_page, page_size
from engine_server.connectors.stripe.ranges import Range
from engine_server.connectors.stripe.records import encode
from engine_server.connectors.stripe.splitting import split

# A window that ends less than this before now holds the newest objects: its first page is asked for
# without a filter. Most lists are done with it, whether or not the server can filter at all.
_NEWEST_SECONDS = 3600

# A cut is a bet on the density of what was not seen yet, and may cost a request. The first bets are
# few, so that what they show can guide the others; in the long run this many pages pay for one.
_FIRST_CUTS = 2
_PAGES_PER_CUT = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedPage:
    """A page, and what it means for the range that it was fetched for.

    Attributes:
        part: The range as it was before the page.
        left: What of it is still to be read after the page, newest first.
        records: The page's objects that lie in the stream's window, as they are to be emitted.
    """

    part: Range
    left: tuple[Range, ...]
    records: list[bytes]


class StreamFetch:
    """What is left to fetch of one stream: always ahead of what was emitted of it."""

    def __init__(
        self, resource: Resource, checkpoint: Checkpoint, *, account_id: str, limit: int | None
    ) -> None:
        """``limit`` is the number of records after which the stream counts as complete."""
        self.resource = resource
        self._account_id = account_id
        self.in_flight = 0
        self._is_stopped = False
        self._window = checkpoint.accounted
        self._pending = deque(checkpoint.remaining)
        self._size = page_size(resource)
        self._limit_left = None if limit is None else limit - checkpoint.record_count
        self._pages = checkpoint.record_count // self._size
        self._cuts = 0
        self._restarted: set[Range] = set()

    @property
    def name(self) -> str:
        """The stream's name."""
        return self.resource.stream.name

    @property
    def is_done(self) -> bool:
        """Whether nothing is in flight or left to start."""
        return not self.in_flight and (self._is_stopped or not self._pending)

    @property
    def can_start(self) -> bool:
        """Whether a fetch may start now. Under a limit they go one by one, so that it is exact."""
        if self._is_stopped or not self._pending:
            return False
        return self._limit_left is None or not self.in_flight

    def stop(self) -> None:
        """Starts nothing more, whatever is left."""
        self._is_stopped = True

    def start(self) -> Range:
        """Takes out the range whose next page is to be fetched."""
        self.in_flight += 1
        return self._pending.popleft()

    async def fetch(
        self, client: StripeClient, part: Range, share: Callable[[], int]
    ) -> FetchedPage:
        """Fetches the next page of ``part`` and queues what is left of it.

        Args:
            client: The way to Stripe.
            part: What ``start`` gave.
            share: Tells how many of its fetches may be in flight once the page is there.

        Raises:
            ConnectionFailed: see ``StripeClient.get``.
            RequestFailed: the same.
        """
        try:
            page, asked = await self._page(client, part)
        finally:
            self.in_flight -= 1
        scope = part if part.is_bounded else self._window
        left = self._left(scope, asked, page, share())
        self._pages += 1
        self._pending.extendleft(reversed(left))
        # Not left to whoever emits them: pages that wait would weigh four times as much as objects,
        # and the garbage collector would go through them again and again.
        records = [
            encode(record, account_id=self._account_id, received_at=page.received_at)
            for record in page.records
            if self._lies_in(scope, record)
        ]
        if self._limit_left is not None:
            self._limit_left -= len(records)
            if self._limit_left <= 0:
                self.stop()
        return FetchedPage(part=part, left=left, records=records)

    async def _page(self, client: StripeClient, part: Range) -> tuple[Page, Range]:
        """The next page of ``part``, and the range that was really asked for."""
        if self._holds_newest(part):
            newest = await self._ask(client, Range())
            # A later window is small. If it is not, its own filter serves it better.
            if part == self._window or not self._goes_on(part, newest):
                return newest, Range()
        return await self._ask(client, part), part

    def _holds_newest(self, part: Range) -> bool:
        return (
            part.cursor is None
            and part.lt is not None
            and part.lt == self._window.lt
            and part.lt > time.time() - _NEWEST_SECONDS
        )

    def _goes_on(self, part: Range, newest: Page) -> bool:
        """Whether more of ``part`` follows the newest page of a list that is newest first."""
        span = newest.newest_first_span(self.resource.created_field)
        if newest.next_cursor is None or span is None:
            return False
        return part.gte is None or span[1] >= part.gte

    async def _ask(self, client: StripeClient, part: Range) -> Page:
        size = self._size if self._limit_left is None else min(self._size, self._limit_left)
        start = dataclasses.replace(part, cursor=None)
        if part.cursor is None or start in self._restarted:
            return await fetch_page(client, self.resource, part, size)
        try:
            page = await fetch_page(client, self.resource, part, size)
        except RequestFailed as error:
            if not error.is_lost_cursor:
                raise
        else:
            # An empty page is right where a cut left nothing to the cursor's own part.
            if page.records or await self._holds(client, part, part.cursor):
                return page
        # The cursor's object is gone. Only the start of the range is sure to be there still.
        self._restarted.add(start)
        return await fetch_page(client, self.resource, start, size)

    async def _holds(self, client: StripeClient, part: Range, object_id: str) -> bool:
        record = await fetch_object(client, self.resource, object_id)
        return record is not None and self._lies_in(part, record)

    def _left(self, scope: Range, asked: Range, page: Page, share: int) -> tuple[Range, ...]:
        """What of ``asked`` is still to be read after ``page``, as far as it lies in ``scope``."""
        if page.next_cursor is None:
            return ()
        rest = dataclasses.replace(asked, cursor=page.next_cursor)
        span = page.newest_first_span(self.resource.created_field)
        if span is None or not self.resource.created_param:
            return (rest,)
        newest, oldest = span
        if newest == oldest:
            # A page of one second shows neither the order of the list nor its density.
            return (rest,)
        if scope.gte is not None and oldest < scope.gte:
            return ()
        if not scope.contains(oldest):
            return (rest,)
        wanted = share - self.in_flight - len(self._pending)
        early = min(share, _FIRST_CUTS + self._pages // 2)
        cuts = early + self._pages // _PAGES_PER_CUT - self._cuts
        parts = split(
            dataclasses.replace(scope, cursor=page.next_cursor),
            newest=newest,
            oldest=oldest,
            parts=min(wanted, 1 + cuts),
        )
        self._cuts += len(parts) - 1
        return parts if len(parts) > 1 else (rest,)

    def _lies_in(self, scope: Range, record: dict[str, Any]) -> bool:
        created = record.get(self.resource.created_field)
        return type(created) is not int or scope.contains(created)
