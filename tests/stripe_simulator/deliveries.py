"""Deliveries by webhook: every event to every endpoint that wants it, at least once."""

import asyncio
import random
from collections.abc import Iterable

import aiohttp

from tests.stripe_simulator.events import Event
from tests.stripe_simulator.outbox import Attempt, Outbox, Receiver


class Deliveries:
    """All deliveries of a simulator.

    Attributes:
        attempts: Those that were made so far.
    """

    def __init__(self) -> None:
        self.attempts: list[Attempt] = []
        self._attempted = asyncio.Event()
        self._outboxes: dict[int, Outbox] = {}
        self._running: asyncio.TaskGroup | None = None
        self.disturb(duplicates=0, reorder=0, seed=0)

    def disturb(self, *, duplicates: float, reorder: float, seed: int) -> None:
        """Lets further deliveries come twice and out of order.

        Args:
            duplicates: The share (0 to 1) that comes twice.
            reorder: Each is put off at random by up to so many seconds.
            seed: Another one gives others.
        """
        self._duplicates = duplicates
        self._reorder = reorder
        self._generator = random.Random(seed)  # noqa: S311 (repeatable on purpose, guards nothing)

    def deliver(self, event: Event, receivers: Iterable[Receiver]) -> None:
        """Sends an event to some endpoints, once ``run`` does."""
        for receiver in receivers:
            outbox = self._outbox(receiver)
            for _ in range(1 + (self._generator.random() < self._duplicates)):
                outbox.put(event, self._generator.uniform(0, self._reorder))

    def give_up(self, event_id: str) -> None:
        """Delivers an event no more, as Stripe does after three days."""
        for outbox in self._outboxes.values():
            outbox.give_up(event_id)

    async def attempted(self, count: int = 1) -> None:
        """Waits until so many deliveries were tried."""
        while len(self.attempts) < count:
            await self._attempted.wait()

    async def settled(self) -> None:
        """Waits until all is acknowledged or given up."""
        for outbox in list(self._outboxes.values()):
            await outbox.settled()

    async def run(self) -> None:
        """Delivers until it is cancelled."""
        async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as running:
            self._session, self._running = session, running
            for outbox in self._outboxes.values():
                running.create_task(outbox.run(session))
            try:
                await asyncio.Event().wait()
            finally:
                self._running = None

    def _take_down(self, attempt: Attempt) -> None:
        self.attempts.append(attempt)
        self._attempted.set()
        self._attempted = asyncio.Event()

    def _outbox(self, receiver: Receiver) -> Outbox:
        # A receiver stays one and the same object through all changes to its endpoint.
        outbox = self._outboxes.get(id(receiver))
        if outbox is None:
            outbox = self._outboxes[id(receiver)] = Outbox(receiver, self._take_down)
            if self._running:
                self._running.create_task(outbox.run(self._session))
        return outbox
