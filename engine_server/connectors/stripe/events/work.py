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
from engine_server.errors import ConnectionFailed

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
            on_late: Called when an event is done that ``finished`` did not wait for.
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
        await self._resources.aclose()

    def __len__(self) -> int:
        """How many are under way, or done and not told."""
        return len(self._under_way)

    def begin(self, events: Sequence[Waiting]) -> None:
        """Works on further events, in the order of their arrival."""
        fetches = Fetches(self._client)
        for waiting in events:
            task = asyncio.create_task(self._process(fetches, waiting))
            self._under_way[task] = waiting
            self._begun.append(task)

    async def finished(self, patience: float) -> list[tuple[Waiting, Outcome]]:
        """Those that are done, in the order in which they were begun; each is told once.

        Args:
            patience: How many seconds to wait for those that were begun since the last time.

        Raises:
            ConnectionFailed: Stripe refuses the key, or is out of reach.
        """
        begun, self._begun = self._begun, []
        if begun:
            _, late = await asyncio.wait(begun, timeout=patience)
            for task in late:
                task.add_done_callback(self._tell_late)
        done = [task for task in self._under_way if task.done()]
        return [(self._under_way.pop(task), task.result()) for task in done]

    def _tell_late(self, _: asyncio.Task[Outcome]) -> None:
        self._on_late()

    async def _process(self, fetches: Fetches, waiting: Waiting) -> Outcome:
        making = process_event(self._client, fetches, self._scope, waiting.body, self._same_second)
        try:
            return await attempt(making, self.skipped)
        except ConnectionFailed as error:
            # That one request keeps failing does not end the others.
            if isinstance(cause := error.__cause__, RequestFailed) and cause.scope is _STRIPE:
                return cause
            raise
