"""The fetches of one read: bounded, shared fairly by the streams, ahead of their reader."""

import asyncio
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from engine_server.connectors.stripe.client import StripeClient
from engine_server.connectors.stripe.errors import RequestFailed
from engine_server.connectors.stripe.ranges import Range
from engine_server.connectors.stripe.stream_fetch import FetchedPage, StreamFetch


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A stream's first fetch was started."""

    stream: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A stream's page was read."""

    stream: str
    page: FetchedPage


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A stream cannot be read any further."""

    stream: str
    error: RequestFailed


Outcome = Opened | Fetched | Failed


class Fetches:
    """Hands out what the fetches bring, page by page.

    A page is handed out before what follows it in its range is even asked for. So whoever applies
    the pages in the order of ``next`` never learns of a cursor before the page that it came from.
    """

    def __init__(
        self,
        client: StripeClient,
        streams: Sequence[StreamFetch],
        *,
        max_concurrency: int,
        page_limit: int | None,
        refused: AbstractSet[str],
    ) -> None:
        """Nothing is fetched before the first call of ``next``.

        Args:
            client: The way to Stripe.
            streams: What to fetch; those that come first begin first.
            max_concurrency: The most requests under way. As many pages again may wait here.
            page_limit: The most pages to fetch; None for all.
            refused: Names of streams to start nothing more for; looked at before each fetch.
        """
        self._client = client
        self._streams = streams
        self._max_concurrency = max_concurrency
        self._pages_left = page_limit
        self._refused = refused
        self._opened: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._outcomes: asyncio.Queue[Outcome | Exception] = asyncio.Queue()

    async def next(self) -> Outcome | None:
        """What happened next; None when nothing more will.

        Raises:
            ConnectionFailed: the API cannot be reached, or refuses the key.
        """
        self._start_more()
        if not self._tasks and self._outcomes.empty():
            return None
        outcome = await self._outcomes.get()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def allow_one_more(self) -> None:
        """Says that a page was of no use, so that it does not count against the limit."""
        if self._pages_left is not None:
            self._pages_left += 1

    async def close(self) -> None:
        """Ends every fetch."""
        tasks = list(self._tasks)
        self._pages_left = 0
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start_more(self) -> None:
        while self._has_room() and (stream := self._next_stream()) is not None:
            if self._pages_left is not None:
                self._pages_left -= 1
            if stream.name not in self._opened:
                self._opened.add(stream.name)
                self._outcomes.put_nowait(Opened(stream=stream.name))
            self._tasks.add(asyncio.create_task(self._fetch(stream, stream.start())))

    def _has_room(self) -> bool:
        running, waiting = len(self._tasks), self._outcomes.qsize()
        return (
            running < self._max_concurrency
            and running + waiting < 2 * self._max_concurrency
            and self._pages_left != 0
        )

    def _next_stream(self) -> StreamFetch | None:
        """Of the streams that can go on, the one with the fewest requests under way."""
        ready = (
            stream
            for stream in self._streams
            if stream.can_start and stream.name not in self._refused
        )
        return min(ready, key=lambda stream: stream.in_flight, default=None)

    async def _fetch(self, stream: StreamFetch, part: Range) -> None:
        outcome: Outcome | Exception
        try:
            page = await stream.fetch(self._client, part, self._share)
            outcome = Fetched(stream=stream.name, page=page)
        except RequestFailed as error:
            stream.stop()
            self.allow_one_more()
            outcome = Failed(stream=stream.name, error=error)
        except Exception as error:
            outcome = error
        self._tasks.discard(asyncio.current_task())
        self._outcomes.put_nowait(outcome)
        self._start_more()

    def _share(self) -> int:
        """How many requests each stream may have under way."""
        unfinished = sum(not stream.is_done for stream in self._streams)
        room = self._max_concurrency
        if self._pages_left is not None:
            room = min(room, self._pages_left + len(self._tasks))
        return max(1, room // max(1, unfinished))
