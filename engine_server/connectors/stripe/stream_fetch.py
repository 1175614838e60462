"""The fetching side of one stream's backfill: which page comes next, and what it leaves to read."""

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Self

from engine_server import exact_json
from engine_server.connectors.stripe.catalog import Resource
from engine_server.connectors.stripe.checkpoint import Checkpoint
from engine_server.connectors.stripe.client import StripeClient
from engine_server.connectors.stripe.nested_lists import records_to_emit
from engine_server.connectors.stripe.pages import Page, page_size
from engine_server.connectors.stripe.range_reader import RangeReader
from engine_server.connectors.stripe.ranges import Range
from engine_server.connectors.stripe.reconcile.listing import Listing
from engine_server.connectors.stripe.records import Stamps
from engine_server.connectors.stripe.splitting import Room, Splitting
from engine_server.text import storable


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedPage:
    """A page, and what it means for the range that it was fetched for.

    Attributes:
        part: The range as it was before the page.
        left: What of it is still to be read after the page, newest first.
        records: The page's objects that lie in the stream's window, as they are to be emitted.
        read_until: Where the stream ends in time as the page shows it, in Unix seconds, if it is
            the newest one and more of the window may come up later.
        listing: What it shows to be there; None unless the run reconciles.
    """

    part: Range
    left: tuple[Range, ...]
    records: list[bytes]
    listing: Listing | None = None
    read_until: int | None = None


class StreamFetch:
    """What is left to fetch of one stream: always ahead of what was emitted of it."""

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
        """Begins where the checkpoint ends.

        Args:
            resource: How the stream is listed.
            checkpoint: What is left to read.
            account_id: What its records are stamped with.
            since: When its history is thought to begin, in Unix seconds.
            limit: How many records of its history are enough; None for all.
            reconciles: Whether what the pages show is compared with what the destination holds.
            is_guessed: Whether its window ends by the engine's own clock, as it had not heard from
                Stripe yet.
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
        self._splitting = Splitting(page_size=self._size, since=since)

    @property
    def name(self) -> str:
        """The stream's name."""
        return self.resource.stream.name

    @property
    def open_parts(self) -> int:
        """How many of its ranges are being read, or could be."""
        return self.in_flight + (0 if self._is_stopped else len(self._pending))

    @property
    def pages(self) -> float:
        """The pages that these are thought to hold, as far as anything is known of them."""
        return 0.0 if self._is_stopped else self._splitting.pages

    @property
    def can_start(self) -> bool:
        """Whether a fetch may start now. Under a limit they go one by one, so that it is exact."""
        if self._is_stopped or not self._pending:
            return False
        return math.isinf(self._limit_left) or not self.in_flight

    def stop(self) -> None:
        """Starts nothing more, whatever is left."""
        self._is_stopped = True

    def start(self) -> Range:
        """Takes out the range whose next page is to be fetched."""
        self.in_flight += 1
        return self._pending.popleft()

    async def fetch(
        self, client: StripeClient, part: Range, room: Callable[[Self], Room]
    ) -> FetchedPage:
        """Fetches the next page of ``part`` and queues what is left of it.

        Args:
            client: The way to Stripe.
            part: What ``start`` gave.
            room: Tells what of the stream could be read side by side, once the page is there.

        Raises:
            ConnectionFailed: see ``StripeClient.get``.
            RequestFailed: the same.
        """
        try:
            page, asked = await self._reader.next_page(client, part, self._next_size(part))
            scope = part if part.is_bounded else self._window
            # What follows in the range is only asked for then, so that pages keep their order.
            records, items, incomplete = await self._records(client, page, scope)
        finally:
            self.in_flight -= 1
        left = self._left(part, scope, asked, page, room)
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
        """Return the records of a page and, where they are items of lists, two sets of ids.

        The first are the items', the second those of the objects whose lists are still incomplete.
        """
        listed = self._reader.objects_in(self._shown_scope(scope, page), page)
        stamps = Stamps(account_id=self._account_id, known_until=page.known_until)
        if not self.resource.nested_field and not page.has_open_lists:
            return [stamps.on_text(found) for found in listed], [], set()
        objects = [exact_json.decode(bytes(found.text)) for found in listed]
        records = await records_to_emit(
            client, self.resource, objects, has_open_lists=page.has_open_lists
        )
        items, incomplete = [], set()
        if self.resource.nested_field:
            items = [record.get("id") for record in records]
            incomplete = {found.get("id") for found in objects if self._is_incomplete(found)}
        return [stamps.on_object(record) for record in records], items, incomplete

    def _is_incomplete(self, parent: dict[str, Any]) -> bool:
        nested = parent.get(self.resource.nested_field)
        return isinstance(nested, dict) and nested.get("has_more") is True

    def _shown_scope(self, scope: Range, page: Page) -> Range:
        """Where in time the page's objects are to be emitted from.

        Those made after a guessed end are not accounted for, and emitted all the same: a clock that
        is behind would keep them from a run that begins after they were made.
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
            # An item that an incomplete list does not show may be there all the same.
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
        self, part: Range, scope: Range, asked: Range, page: Page, room: Callable[[Self], Room]
    ) -> tuple[Range, ...]:
        """What of ``asked`` is still to be read after ``page``, as far as it lies in ``scope``."""
        times = page.times_newest_first
        compared_from = self._compared_from(page, times)
        if page.is_cut:
            rest = asked.with_cursor(page.next_cursor, compared_from)
            self._splitting.go_on(part, rest)
            return (rest,)
        is_past_scope = bool(times) and scope.gte is not None and times[-1] < scope.gte
        if page.next_cursor is None or is_past_scope:
            self._splitting.end(part, page.listed_count)
            return ()
        rest = asked.with_cursor(page.next_cursor, compared_from)
        is_divisible = self.resource.created_param and math.isinf(self._limit_left)
        if not times or not scope.contains(times[-1]) or not is_divisible:
            self._splitting.keep(part, rest, page.listed_count)
            return (rest,)
        return self._splitting.split(
            part, rest, scope, times, room(self), open_parts=self.open_parts
        )

    def _compared_from(self, page: Page, times: Sequence[int]) -> int | None:
        """From when on nothing is to be compared any more after a page that more follow."""
        is_by_time = self._reconciles and self.resource.stream.time_range_field
        if not is_by_time or not times or not page.objects:
            return None
        oldest = getattr(page.objects[-1].head, self.resource.created_field)
        # More of its last second may follow.
        return int(oldest) + 1


def _as_held(object_id: Any) -> Any:
    """An id as a destination holds it that cannot hold all characters."""
    return storable(object_id) if isinstance(object_id, str) else object_id
