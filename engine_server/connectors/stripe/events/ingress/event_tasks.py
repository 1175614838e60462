"""Tasks that process events concurrently, so that none waits for a slower one."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self, TypeAlias

from engine_server.connectors.stripe.api.client import StripeClient
from engine_server.connectors.stripe.api.errors import FailureScope, RequestFailed
from engine_server.connectors.stripe.events.failed_events import SkippedStreams, attempt
from engine_server.connectors.stripe.events.failure import EventFailed
from engine_server.connectors.stripe.events.ingress.event_queue import QueuedEvent
from engine_server.connectors.stripe.events.object_fetcher import ObjectFetcher
from engine_server.connectors.stripe.events.process_event import process_event
from engine_server.connectors.stripe.events.same_second import SameSecond
from engine_server.connectors.stripe.events.scope import EventScope
from engine_server.connectors.stripe.events.stored_items import StoredItems
from engine_server.connectors.stripe.records import StreamRecord
from engine_server.errors import ConnectionFailed
from pipesync.v1.message_pb2 import Message

_STRIPE = FailureScope.STRIPE
# The records of an event, or its failure: for a reason of its own, or because Stripe fails.
EventOutcome: TypeAlias = list[StreamRecord] | EventFailed | RequestFailed


class EventTasks:
    """Processes events; an async context manager that cancels its tasks at its end.

    Attributes:
        skipped: The streams whose events are skipped.
    """

    def __init__(
        self, client: StripeClient, scope: EventScope, on_late: Callable[[], None]
    ) -> None:
        """Store the arguments; no task runs yet.

        Args:
            client: Sends the requests.
            scope: The scope of the pipeline.
            on_late: Called when an event is done that ``finished`` did not wait for, or when
                ``take_barriers`` has barriers.
        """
        self.skipped = SkippedStreams()
        self._client = client
        self._scope = scope
        self._on_late = on_late
        self._resources = AsyncExitStack()
        self._same_second = SameSecond(scope)
        # In the order of their start.
        self._under_way: dict[asyncio.Task[EventOutcome], QueuedEvent] = {}
        self._begun: list[asyncio.Task[EventOutcome]] = []
        # The stored items that each task shares with those started together.
        self._batches: dict[asyncio.Task[EventOutcome], StoredItems] = {}
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
        """Return the number of tasks that run, or whose outcome was not returned yet."""
        return len(self._under_way)

    def begin(self, events: Sequence[QueuedEvent]) -> None:
        """Start processing events, in the order of their arrival."""
        if not events:
            return
        fetcher = ObjectFetcher(self._client)
        stored_items = self._scope.batch(self._want_barrier)
        scope = self._scope.sharing(stored_items)
        for queued in events:
            task = asyncio.create_task(self._process(fetcher, scope, queued))
            self._under_way[task] = queued
            self._begun.append(task)
            self._batches[task] = stored_items

    async def finished(self, timeout: float) -> list[tuple[QueuedEvent, EventOutcome]]:
        """Return the finished events in the order of their start, each once.

        Args:
            timeout: Seconds to wait for the events started since the last call.

        Raises:
            ConnectionFailed: Stripe refuses the key or is unreachable.
        """
        begun, self._begun = self._begun, []
        if begun:
            await self._wait_for(begun, timeout)
            for task in begun:
                if not task.done():
                    task.add_done_callback(self._tell_late)
        done = [task for task in self._under_way if task.done()]
        for task in done:
            del self._batches[task]
        return [(self._under_way.pop(task), task.result()) for task in done]

    def take_barriers(self) -> list[Message]:
        """Return the barriers that events wait for, to be yielded after all messages so far."""
        self._barrier_wanted.clear()
        batches = dict.fromkeys(self._batches.values())
        return [barrier for batch in batches for barrier in batch.take_barriers()]

    async def _wait_for(self, begun: Sequence[asyncio.Task[EventOutcome]], timeout: float) -> None:
        """Wait until all are done, one of them needs a barrier, or the timeout."""
        ends = [
            asyncio.create_task(asyncio.wait(begun)),
            asyncio.create_task(self._barrier_wanted.wait()),
        ]
        try:
            await asyncio.wait(ends, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in ends:
                end.cancel()
            await asyncio.gather(*ends, return_exceptions=True)

    def _want_barrier(self) -> None:
        self._barrier_wanted.set()
        self._on_late()

    def _tell_late(self, _: asyncio.Task[EventOutcome]) -> None:
        self._on_late()

    async def _process(
        self, fetcher: ObjectFetcher, scope: EventScope, queued: QueuedEvent
    ) -> EventOutcome:
        making = process_event(self._client, fetcher, scope, queued.body, self._same_second)
        try:
            return await attempt(making, self.skipped)
        except ConnectionFailed as error:
            # One request that keeps failing must not end the others.
            if isinstance(cause := error.__cause__, RequestFailed) and cause.scope is _STRIPE:
                return cause
            raise
