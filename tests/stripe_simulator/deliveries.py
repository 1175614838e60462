"""Deliveries by webhook: every event to every endpoint that is registered for it, at least once."""

import asyncio
import random
from collections.abc import Iterable

import aiohttp

from tests.stripe_simulator.events import Event
from tests.stripe_simulator.outbox import Attempt, Outbox, Receiver


class Deliveries:
    """All deliveries of a simulator.

    Attributes:
        attempts: Attempts made so far.
    """

    def __init__(self) -> None:
        self.attempts: list[Attempt] = []
        self._attempted = asyncio.Event()
        self._outboxes: dict[int, Outbox] = {}
        self._running: asyncio.TaskGroup | None = None
        self.disturb(duplicates=0, reorder=0, seed=0)

    def disturb(self, *, duplicates: float, reorder: float, seed: int) -> None:
        """Duplicate and reorder further deliveries.

        Args:
            duplicates: Share of deliveries (0 to 1) to duplicate.
            reorder: Upper bound in seconds of each delivery's random delay.
            seed: Seed of the random choices.
        """
        self._duplicates = duplicates
        self._reorder = reorder
        self._generator = random.Random(seed)  # noqa: S311 (repeatable on purpose, guards nothing)

    def deliver(self, event: Event, receivers: Iterable[Receiver]) -> None:
        """Queue an event for some endpoints; ``run`` delivers it."""
        for receiver in receivers:
            outbox = self._outbox(receiver)
            for _ in range(1 + (self._generator.random() < self._duplicates)):
                outbox.put(event, self._generator.uniform(0, self._reorder))

    def give_up(self, event_id: str) -> None:
        """Stop delivering an event, as Stripe does after three days."""
        for outbox in self._outboxes.values():
            outbox.give_up(event_id)

    async def attempted(self, count: int = 1) -> None:
        """Wait until this many deliveries were attempted."""
        while len(self.attempts) < count:
            await self._attempted.wait()

    async def settled(self) -> None:
        """Wait until all deliveries are acknowledged or given up."""
        for outbox in list(self._outboxes.values()):
            await outbox.settled()

    async def run(self) -> None:
        """Deliver events until cancelled."""
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
        # A receiver stays the same object through all changes to its endpoint.
        outbox = self._outboxes.get(id(receiver))
        if outbox is None:
            outbox = self._outboxes[id(receiver)] = Outbox(receiver, self._take_down)
            if self._running:
                self._running.create_task(outbox.run(self._session))
        return outbox
