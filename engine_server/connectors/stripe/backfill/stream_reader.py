"""The fetching side of one stream's backfill."""

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from typing import Any, Self

from engine_server import exact_json
from engine_server.connectors.stripe.api.client import StripeClient
from engine_server.connectors.stripe.backfill.checkpoint import Checkpoint
from engine_server.connectors.stripe.backfill.range_splitter import Capacity, RangeSplitter
from engine_server.connectors.stripe.catalog.streams import Resource
from engine_server.connectors.stripe.lists.fetched_page import FetchedPage, Listing
from engine_server.connectors.stripe.lists.list_page import ListedObject
from engine_server.connectors.stripe.lists.nested_lists import records_to_emit
from engine_server.connectors.stripe.lists.pages import Page, page_size
from engine_server.connectors.stripe.lists.range_reader import RangeReader
from engine_server.connectors.stripe.lists.ranges import Range
from engine_server.connectors.stripe.records import RecordMetadata
from engine_server.text import storable

# The most bytes of objects decoded before other tasks run.
_BYTES_AT_ONCE = 512 * 1024


class StreamReader:
    """The ranges left to fetch of one stream, always ahead of the emitted ones."""

    def __init__(
        self,
        resource: Resource,
        checkpoint: Checkpoint,
        *,
        account_id: str,
        since: int,
        limit: int | None,
        reconciles: bool = False,
        is_guessed: bool = False,
    ) -> None:
        """Start where the checkpoint ends.

        Args:
            resource: How the stream is listed.
            checkpoint: The ranges left to read.
            account_id: The account id that its records carry.
            since: Estimated beginning of its history, in Unix seconds.
            limit: The number of records of its history to read; None for all.
            reconciles: Whether the pages are compared with the destination's records.
            is_guessed: Whether the window ends by the engine's own clock, before any response from
                Stripe.
        """
        self.resource = resource
        self.in_flight = 0
        self._account_id = account_id
        self._reconciles = reconciles
        self._is_stopped = False
        self._is_history = checkpoint.is_history
        self._window = checkpoint.window
        self._is_guessed = is_guessed
        self._pending = deque(checkpoint.unread)
        self._size = page_size(resource)
        self._limit_left = math.inf if limit is None else limit - checkpoint.record_count
        self._drop_history_beyond_limit()
        self._reader = RangeReader(resource, self._window, is_open=is_guessed)
        self._splitter = RangeSplitter(page_size=self._size, since=since)

    @property
    def name(self) -> str:
        """The stream's name."""
        return self.resource.stream.name

    @property
    def open_ranges(self) -> int:
        """The number of ranges that are being read or can be."""
        return self.in_flight + (0 if self._is_stopped else len(self._pending))

    @property
    def pages(self) -> float:
        """The estimated number of pages in these ranges."""
        return 0.0 if self._is_stopped else self._splitter.pages

    @property
    def can_start(self) -> bool:
        """Whether a fetch may start now. Under a limit they run one at a time to keep it exact."""
        if self._is_stopped or not self._pending:
            return False
        return math.isinf(self._limit_left) or not self.in_flight

    def stop(self) -> None:
        """Start no further fetch."""
        self._is_stopped = True

    def start(self) -> Range:
        """Take the range whose next page is to be fetched."""
        self.in_flight += 1
        return self._pending.popleft()

    async def fetch(
        self, client: StripeClient, part: Range, capacity: Callable[[Self], Capacity]
    ) -> FetchedPage:
        """Fetch the next page of ``part`` and queue the rest of the range.

        Args:
            client: Sends the requests.
            part: The range that ``start`` returned.
            capacity: Returns the capacity for more ranges once the page has arrived.

        Raises:
            ConnectionFailed: See ``StripeClient.get``.
            RequestFailed: See ``StripeClient.get``.
        """
        try:
            page, asked = await self._reader.next_page(client, part, self._next_size(part))
            scope = part if part.is_bounded else self._window
            # The next page of the range is requested only after this, so that pages stay in order.
            records, items, incomplete = await self._records(client, page, scope)
        finally:
            self.in_flight -= 1
        left = self._left(part, scope, asked, page, capacity)
        self._pending.extendleft(reversed(left))
        if self._is_history(part):
            self._limit_left -= len(records)
            self._drop_history_beyond_limit()
        listing = self._listing(page, scope, items, incomplete) if self._reconciles else None
        return FetchedPage(
            part=part,
            left=left,
            records=records,
            listing=listing,
            read_until=self._read_until(part, page),
        )

    async def _records(
        self, client: StripeClient, page: Page, scope: Range
    ) -> tuple[list[bytes], list[Any], set[Any]]:
        """Return the records of a page and, if they are items of lists, two sets of ids.

        The first set holds the ids of the items, the second those of the objects whose lists are
        still incomplete.
        """
        listed = self._reader.objects_in(self._shown_scope(scope, page), page)
        metadata = RecordMetadata(account_id=self._account_id, known_until=page.known_until)
        if not self.resource.nested_field and not page.has_open_lists:
            return [metadata.add_to_text(found) for found in listed], [], set()
        objects = await _decoded(listed)
        records = await records_to_emit(
            client, self.resource, objects, has_open_lists=page.has_open_lists
        )
        items, incomplete = [], set()
        if self.resource.nested_field:
            items = [record.get("id") for record in records]
            incomplete = {found.get("id") for found in objects if self._is_incomplete(found)}
        return [metadata.add_to_object(record) for record in records], items, incomplete

    def _is_incomplete(self, parent: dict[str, Any]) -> bool:
        nested = parent.get(self.resource.nested_field)
        return isinstance(nested, dict) and nested.get("has_more") is True

    def _shown_scope(self, scope: Range, page: Page) -> Range:
        """Return the range of time whose objects are emitted.

        Objects created after a guessed end are emitted although no checkpoint accounts for them:
        with a clock that is behind, a run that begins after their creation would miss them.
        """
        end = self._window.lt
        if not self._is_guessed or end is None or scope.lt != end:
            return scope
        return Range(gte=scope.gte) if page.known_until >= end else scope

    def _read_until(self, part: Range, page: Page) -> int | None:
        if part.cursor is not None or part.lt is None or part.lt != self._window.lt:
            return None
        end = page.known_until + 1
        return end if part.lt > end else None

    def _listing(self, page: Page, scope: Range, items: list[Any], incomplete: set[Any]) -> Listing:
        created = attrgetter(self.resource.created_field)
        heads = [listed.head for listed in page.objects]
        if self.resource.nested_field:
            # The unseen part of an incomplete list may hold more items.
            owners = [
                head.id for head in heads if head.id is not None and head.id not in incomplete
            ]
            held = {_as_held(item): None for item in items}
            return Listing(scope=scope, created=held, owners=owners)
        times = {_as_held(head.id): created(head) for head in heads if head.id is not None}
        return Listing(scope=scope, created=times)

    def _next_size(self, part: Range) -> int:
        return int(min(self._size, self._limit_left)) if self._is_history(part) else self._size

    def _drop_history_beyond_limit(self) -> None:
        if self._limit_left <= 0:
            self._pending = deque(part for part in self._pending if not self._is_history(part))

    def _left(
        self,
        part: Range,
        scope: Range,
        asked: Range,
        page: Page,
        capacity: Callable[[Self], Capacity],
    ) -> tuple[Range, ...]:
        """Return the ranges of ``asked`` within ``scope`` still to be read after ``page``."""
        times = page.times_newest_first
        compared_from = self._compared_from(page, times)
        if page.is_cut:
            rest = asked.with_cursor(page.next_cursor, compared_from)
            self._splitter.keep_estimate(part, rest)
            return (rest,)
        is_past_scope = bool(times) and scope.gte is not None and times[-1] < scope.gte
        if page.next_cursor is None or is_past_scope:
            self._splitter.finish(part, page.listed_count)
            return ()
        rest = asked.with_cursor(page.next_cursor, compared_from)
        is_divisible = self.resource.created_param and math.isinf(self._limit_left)
        if not times or not scope.contains(times[-1]) or not is_divisible:
            self._splitter.advance(part, rest, page.listed_count)
            return (rest,)
        return self._splitter.split(
            part, rest, scope, times, capacity(self), open_ranges=self.open_ranges
        )

    def _compared_from(self, page: Page, times: Sequence[int]) -> int | None:
        """Return the second from which on everything was compared, if more pages follow."""
        is_by_time = self._reconciles and self.resource.stream.time_range_field
        if not is_by_time or not times or not page.objects:
            return None
        oldest = getattr(page.objects[-1].head, self.resource.created_field)
        # The next page may hold more objects of this second.
        return int(oldest) + 1


def _as_held(object_id: Any) -> Any:
    """Return an id as a destination holds it that cannot store all characters."""
    return storable(object_id) if isinstance(object_id, str) else object_id


async def _decoded(listed: Iterable[ListedObject]) -> list[dict[str, Any]]:
    """Return the objects of a page; other tasks run while a large one is decoded."""
    objects, size = [], 0
    for found in listed:
        text = bytes(found.text)
        size += len(text)
        if size > _BYTES_AT_ONCE:
            size = len(text)
            await asyncio.sleep(0)
        objects.append(exact_json.decode(text))
    return objects
