"""The events that are being worked on, side by side: none waits for a slower one."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self, TypeAlias

from engine_server.connectors.stripe.client import StripeClient
from engine_server.connectors.stripe.errors import FailureScope, RequestFailed
from engine_server.connectors.stripe.events.failed_events import SkippedStreams, attempt
from engine_server.connectors.stripe.events.failure import EventFailed
from engine_server.connectors.stripe.events.fetch import Fetches
from engine_server.connectors.stripe.events.inbox import Waiting
from engine_server.connectors.stripe.events.process_event import process_event
from engine_server.connectors.stripe.events.records import StreamRecord
from engine_server.connectors.stripe.events.same_second import SameSecond
from engine_server.connectors.stripe.events.scope import EventScope
from engine_server.connectors.stripe.events.stored_items import StoredItems
from engine_server.errors import ConnectionFailed
from pipesync.v1.message_pb2 import Message

_STRIPE = FailureScope.STRIPE
# What it makes, or why it makes nothing: for a reason of its own, or as Stripe fails.
Outcome: TypeAlias = list[StreamRecord] | EventFailed | RequestFailed


class Work:
    """An async context manager; nothing is worked on any more once it is closed.

    Attributes:
        skipped: The streams whose events are skipped.
    """

    def __init__(
        self, client: StripeClient, scope: EventScope, on_late: Callable[[], None]
    ) -> None:
        """Begins nothing yet.

        Args:
            client: The way to Stripe.
            scope: What of the events is wanted.
            on_late: Called when an event is done that ``finished`` did not wait for, or wants what
                ``take_barriers`` has.
        """
        self.skipped = SkippedStreams()
        self._client = client
        self._scope = scope
        self._on_late = on_late
        self._resources = AsyncExitStack()
        self._same_second = SameSecond(scope)
        # In the order in which they were begun.
        self._under_way: dict[asyncio.Task[Outcome], Waiting] = {}
        self._begun: list[asyncio.Task[Outcome]] = []
        # What each shares with those that it was begun with.
        self._batches: dict[asyncio.Task[Outcome], StoredItems] = {}
        self._barrier_wanted = asyncio.Event()

    async def __aenter__(self) -> Self:
        await self._resources.enter_async_context(self._same_second)
        return self

    async def __aexit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)
        for batch in dict.fromkeys(self._batches.values()):
            await batch.close()
        await self._resources.aclose()

    def __len__(self) -> int:
        """How many are under way, or done and not told."""
        return len(self._under_way)

    def begin(self, events: Sequence[Waiting]) -> None:
        """Works on further events, in the order of their arrival."""
        if not events:
            return
        fetches = Fetches(self._client)
        stored_items = self._scope.batch(self._want_barrier)
        scope = self._scope.sharing(stored_items)
        for waiting in events:
            task = asyncio.create_task(self._process(fetches, scope, waiting))
            self._under_way[task] = waiting
            self._begun.append(task)
            self._batches[task] = stored_items

    async def finished(self, patience: float) -> list[tuple[Waiting, Outcome]]:
        """Those that are done, in the order in which they were begun; each is told once.

        Args:
            patience: How many seconds to wait for those that were begun since the last time.

        Raises:
            ConnectionFailed: Stripe refuses the key, or is out of reach.
        """
        begun, self._begun = self._begun, []
        if begun:
            await self._wait_for(begun, patience)
            for task in begun:
                if not task.done():
                    task.add_done_callback(self._tell_late)
        done = [task for task in self._under_way if task.done()]
        for task in done:
            del self._batches[task]
        return [(self._under_way.pop(task), task.result()) for task in done]

    def take_barriers(self) -> list[Message]:
        """The barriers that events wait for, to be yielded behind all that was yielded."""
        self._barrier_wanted.clear()
        batches = dict.fromkeys(self._batches.values())
        return [barrier for batch in batches for barrier in batch.take_barriers()]

    async def _wait_for(self, begun: Sequence[asyncio.Task[Outcome]], patience: float) -> None:
        """Waits until all are done, one of them wants a barrier, or the time is up."""
        ends = [
            asyncio.create_task(asyncio.wait(begun)),
            asyncio.create_task(self._barrier_wanted.wait()),
        ]
        try:
            await asyncio.wait(ends, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in ends:
                end.cancel()
            await asyncio.gather(*ends, return_exceptions=True)

    def _want_barrier(self) -> None:
        self._barrier_wanted.set()
        self._on_late()

    def _tell_late(self, _: asyncio.Task[Outcome]) -> None:
        self._on_late()

    async def _process(self, fetches: Fetches, scope: EventScope, waiting: Waiting) -> Outcome:
        making = process_event(self._client, fetches, scope, waiting.body, self._same_second)
        try:
            return await attempt(making, self.skipped)
        except ConnectionFailed as error:
            # That one request keeps failing does not end the others.
            if isinstance(cause := error.__cause__, RequestFailed) and cause.scope is _STRIPE:
                return cause
            raise
