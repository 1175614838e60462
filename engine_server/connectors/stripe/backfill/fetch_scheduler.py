"""Scheduler of the page fetches of one read.

It bounds the requests in flight, shares them fairly among the streams, and fetches ahead of the
consumer.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from engine_server.connectors.stripe.api.client import StripeClient
from engine_server.connectors.stripe.api.errors import RequestFailed
from engine_server.connectors.stripe.backfill.range_splitter import PACED, UNPACED, Capacity
from engine_server.connectors.stripe.backfill.stream_reader import StreamReader
from engine_server.connectors.stripe.lists.fetched_page import FetchedPage
from engine_server.connectors.stripe.lists.ranges import Range
from engine_server.errored_streams import ErroredStreams


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamOpened:
    """Outcome: the first fetch of a stream was started."""

    stream: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PageFetched:
    """Outcome: a page of a stream was read."""

    stream: str
    page: FetchedPage


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamFailed:
    """Outcome: reading a stream failed for good."""

    stream: str
    error: RequestFailed


FetchOutcome = StreamOpened | PageFetched | StreamFailed


class FetchScheduler:
    """Hands out fetched pages one by one.

    A page is handed out before the next page of its range is requested. A consumer that applies
    pages in the order of ``next`` therefore never sees a cursor before the page that it comes from.
    """

    def __init__(
        self,
        client: StripeClient,
        streams: Sequence[StreamReader],
        *,
        max_concurrency: int,
        page_limit: int | None,
        errored: ErroredStreams,
    ) -> None:
        """Store the arguments; fetching starts with the first call of ``next``.

        Args:
            client: Sends the requests.
            streams: The streams to fetch, in the order in which they start.
            max_concurrency: The most requests in flight. As many pages again may wait here.
            page_limit: The most pages to fetch; None for all.
            errored: Streams to stop fetching, checked before each fetch.
        """
        self._client = client
        self._unfinished = list(streams)
        self._max_concurrency = max_concurrency
        self._pages_left = page_limit
        self._errored = errored
        self._opened: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._outcomes: asyncio.Queue[FetchOutcome | Exception] = asyncio.Queue()

    async def next(self) -> FetchOutcome | None:
        """Return the next outcome; None when all fetches are done.

        Raises:
            ConnectionFailed: The API cannot be reached or refuses the key.
        """
        self._start_more()
        if not self._tasks and self._outcomes.empty():
            return None
        outcome = await self._outcomes.get()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def refund_page(self) -> None:
        """Return a page to the limit, because it led to no checkpoint."""
        if self._pages_left is not None:
            self._pages_left += 1

    async def close(self) -> None:
        """Cancel every fetch."""
        tasks = list(self._tasks)
        self._pages_left = 0
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start_more(self) -> None:
        while self._has_capacity() and (stream := self._next_stream()) is not None:
            if self._pages_left is not None:
                self._pages_left -= 1
            if stream.name not in self._opened:
                self._opened.add(stream.name)
                self._outcomes.put_nowait(StreamOpened(stream=stream.name))
            self._tasks.add(asyncio.create_task(self._fetch(stream, stream.start())))

    def _has_capacity(self) -> bool:
        running, waiting = len(self._tasks), self._outcomes.qsize()
        return (
            running < self._max_concurrency
            and running + waiting < 2 * self._max_concurrency
            and self._pages_left != 0
        )

    def _next_stream(self) -> StreamReader | None:
        """Return the ready stream with the fewest requests in flight."""
        ready = (stream for stream in self._unfinished if self._can_start(stream))
        return min(ready, key=lambda stream: stream.in_flight, default=None)

    def _can_start(self, stream: StreamReader) -> bool:
        if stream.name in self._errored:
            stream.stop()
        return stream.can_start

    async def _fetch(self, stream: StreamReader, part: Range) -> None:
        outcome: FetchOutcome | Exception
        try:
            page = await stream.fetch(self._client, part, self._capacity)
            outcome = PageFetched(stream=stream.name, page=page)
        except RequestFailed as error:
            stream.stop()
            self.refund_page()
            outcome = StreamFailed(stream=stream.name, error=error)
        except Exception as error:
            outcome = error
        if not stream.open_ranges:
            self._unfinished.remove(stream)
        self._tasks.discard(asyncio.current_task())
        self._outcomes.put_nowait(outcome)
        self._start_more()

    def _capacity(self, stream: StreamReader) -> Capacity:
        """Return how many more ranges of ``stream`` can be read once a page has arrived."""
        # Counts the range of that page, which is no longer among the open ranges.
        claimed = 1 + sum(other.open_ranges for other in self._unfinished)
        # One range more than useful requests, so that one is ready when a request ends.
        slots = 1 + self._client.useful_concurrency()
        own_slots = 1 + self._client.useful_concurrency(stream.resource.path)
        parts = min(slots - claimed, own_slots - 1 - stream.open_ranges)
        if self._pages_left is not None:
            parts = min(parts, self._pages_left + len(self._tasks) - claimed)
        return Capacity(
            parts=max(0, parts),
            slots=max(slots, claimed),
            pages=sum(other.pages for other in self._unfinished),
            budget=PACED if self._client.is_paced else UNPACED,
        )
