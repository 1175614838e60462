"""The fetches of one read: bounded, shared fairly by the streams, ahead of their reader."""

import asyncio
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from engine_server.connectors.stripe.client import StripeClient
from engine_server.connectors.stripe.errors import RequestFailed
from engine_server.connectors.stripe.ranges import Range
from engine_server.connectors.stripe.splitting import LAVISH, SPARING, Room
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
        self._unfinished = list(streams)
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
        ready = (stream for stream in self._unfinished if self._can_start(stream))
        return min(ready, key=lambda stream: stream.in_flight, default=None)

    def _can_start(self, stream: StreamFetch) -> bool:
        if stream.name in self._refused:
            stream.stop()
        return stream.can_start

    async def _fetch(self, stream: StreamFetch, part: Range) -> None:
        outcome: Outcome | Exception
        try:
            page = await stream.fetch(self._client, part, self._room)
            outcome = Fetched(stream=stream.name, page=page)
        except RequestFailed as error:
            stream.stop()
            self.allow_one_more()
            outcome = Failed(stream=stream.name, error=error)
        except Exception as error:
            outcome = error
        if not stream.open_parts:
            self._unfinished.remove(stream)
        self._tasks.discard(asyncio.current_task())
        self._outcomes.put_nowait(outcome)
        self._start_more()

    def _room(self, stream: StreamFetch) -> Room:
        """What of ``stream`` could be read side by side now that one of its pages is there."""
        # The range of that page is taken out: it counts as one more.
        claimed = 1 + sum(other.open_parts for other in self._unfinished)
        # One range more than requests are worth having under way: it is there when one ends.
        lanes = 1 + self._client.useful_concurrency()
        own_lanes = 1 + self._client.useful_concurrency(stream.resource.path)
        parts = min(lanes - claimed, own_lanes - 1 - stream.open_parts)
        if self._pages_left is not None:
            parts = min(parts, self._pages_left + len(self._tasks) - claimed)
        return Room(
            parts=max(0, parts),
            lanes=max(lanes, claimed),
            pages=sum(other.pages for other in self._unfinished),
            budget=SPARING if self._client.is_paced else LAVISH,
        )
