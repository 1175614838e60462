"""Queue of received events that are not committed yet, from any ingress."""

import asyncio
import heapq
import itertools
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import structlog

from engine_server.connectors.stripe.events.intervals import ListeningIntervals

_log = structlog.get_logger(__name__)

# Bounds of the events that wait while a history is read. Webhook bodies are a few kilobytes.
_MOST_QUEUED = 1000
_MOST_BYTES_QUEUED = 32 * 1024 * 1024
# With the default intervals, an event that keeps failing is dead-lettered after about 90 minutes.
_MOST_TRIES = 12
_MOST_DEFERRED = 100
# The number of committed events to recognize when they are received again.
_MOST_KNOWN = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledger:
    """Acknowledges an event to its sender.

    Attributes:
        key: Identifies a sender that sends the event again but expects one acknowledgement.
        acknowledge: Called once: with True when the event is committed, with False if it cannot be
            committed now.
        is_redelivered: Whether the event is sent again after a False.
    """

    key: Hashable
    acknowledge: Callable[[bool], None]
    is_redelivered: bool


@dataclass(slots=True, eq=False)
class QueuedEvent:
    """One event that is not committed yet.

    Attributes:
        id: The id of the event.
        body: The event as JSON.
        is_preferred: Whether it is the preferred rendering of the event.
        acknowledgers: The acknowledgers of its senders, by their keys.
        tries: The number of failures.
    """

    id: str
    body: bytes
    is_preferred: bool
    acknowledgers: dict[Hashable, Acknowledger]
    tries: int = 0


class EventQueue:
    """A bounded queue of events, each acknowledged once its outcome is known."""

    def __init__(self, intervals: ListeningIntervals) -> None:
        self._intervals = intervals
        self._queue: deque[QueuedEvent] = deque()
        self._bytes = 0
        # Events that are queued, being processed, or deferred.
        self._unanswered: set[QueuedEvent] = set()
        # The latest rendering of each event among them.
        self._open: dict[str, QueuedEvent] = {}
        # Deferred events by the time when each is due.
        self._deferred: list[tuple[float, int, QueuedEvent]] = []
        self._numbers = itertools.count()
        # Whether the preferred rendering of each event was committed.
        self._committed: OrderedDict[str, bool] = OrderedDict()
        # The failures of each event, also across redeliveries.
        self._tries: OrderedDict[str, int] = OrderedDict()
        self._failure: Exception | None = None
        self._closed = self._woken = False
        self._changed = asyncio.Event()
        self._space = asyncio.Event()
        self._space.set()

    def put(
        self, event_id: str, body: bytes, acknowledger: Acknowledger, *, is_preferred: bool = True
    ) -> bool:
        """Add an event; return False if there is no space for it.

        A committed event is acknowledged at once. An event that is queued already gets another
        acknowledger. Neither needs space.

        Args:
            event_id: ``evt_...``
            body: The event as JSON.
            acknowledger: Acknowledges the event to its sender.
            is_preferred: Whether it is the preferred rendering of the event.
        """
        known = self._committed.get(event_id)
        if self._closed or (known is not None and (known or not is_preferred)):
            acknowledger.acknowledge(not self._closed)
            return True
        queued = self._open.get(event_id)
        if queued is not None and (queued.is_preferred or not is_preferred):
            queued.acknowledgers[acknowledger.key] = acknowledger
            return True
        if not self._space.is_set():
            return False
        queued = QueuedEvent(event_id, body, is_preferred, {acknowledger.key: acknowledger})
        self._open[event_id] = queued
        self._unanswered.add(queued)
        self._queue.append(queued)
        self._bytes += len(body)
        self._mark_space()
        self._changed.set()
        return True

    async def wait_for_space(self) -> None:
        """Wait until another event fits."""
        await self._space.wait()

    @property
    def has_events(self) -> bool:
        """Whether ``take`` would return events at once."""
        return bool(self._queue) or self._next_due() == 0.0

    async def take(self, most: int, *, at_most: float | None) -> list[QueuedEvent]:
        """Return the next events, in the order of their arrival; none after a timeout.

        Args:
            most: The most events to return.
            at_most: Seconds to wait for the first event; None to wait for ever, or until ``wake``.

        Raises:
            Exception: The reason given to ``fail``.
        """
        loop = asyncio.get_running_loop()
        end = None if at_most is None else loop.time() + at_most
        while True:
            self._changed.clear()
            if self._failure is not None:
                raise self._failure
            taken = self._take_now(most)
            if taken or self._woken or (end is not None and loop.time() >= end):
                self._woken = False
                return taken
            due = self._next_due()
            waits = [when for when in (end, None if due is None else loop.time() + due) if when]
            try:
                async with asyncio.timeout_at(min(waits, default=None)):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def resolve(self, queued: QueuedEvent, *, committed: bool) -> None:
        """Acknowledge an event that was taken to all its senders."""
        self._unanswered.discard(queued)
        if self._open.get(queued.id) is queued:
            del self._open[queued.id]
        if committed:
            self._tries.pop(queued.id, None)
            known = self._committed.pop(queued.id, False)
            self._committed[queued.id] = known or queued.is_preferred
            if len(self._committed) > _MOST_KNOWN:
                self._committed.popitem(last=False)
        acknowledgers, queued.acknowledgers = queued.acknowledgers, {}
        for acknowledger in acknowledgers.values():
            acknowledger.acknowledge(committed)

    def defer(self, queued: QueuedEvent, reason: Exception, *, counts: bool = True) -> int | None:
        """Defer a failed event, unless its senders redeliver it.

        An event that keeps failing for its own reasons is dropped, without ever being acknowledged.

        Args:
            queued: The event.
            reason: The reason of the failure.
            counts: Whether the event is the cause; failures of Stripe are retried without limit.

        Returns:
            The number of attempts, if the event is dropped.
        """
        queued.tries += 1
        own_tries = self._count(queued.id) if counts else 0
        for acknowledger in [
            acknowledger
            for acknowledger in queued.acknowledgers.values()
            if acknowledger.is_redelivered
        ]:
            del queued.acknowledgers[acknowledger.key]
            acknowledger.acknowledge(False)
        failure = {
            "event_id": queued.id,
            "tries": queued.tries,
            "error": str(reason) or type(reason).__name__,
        }
        is_hopeless = own_tries >= _MOST_TRIES
        if counts and queued.acknowledgers:
            is_hopeless = is_hopeless or len(self._deferred) >= _MOST_DEFERRED
        if self._closed:
            self.resolve(queued, committed=False)
            _log.warning("event_failed", **failure)
        elif is_hopeless:
            self._tries.pop(queued.id, None)
            self.resolve(queued, committed=False)
            _log.error("event_given_up", **failure)
            return own_tries
        elif not queued.acknowledgers:
            self.resolve(queued, committed=False)
            _log.warning("event_failed", **failure)
        else:
            delay = self._intervals.deferral(queued.tries)
            due = asyncio.get_running_loop().time() + delay
            heapq.heappush(self._deferred, (due, next(self._numbers), queued))
            self._mark_space()
            _log.warning("event_put_off", **failure, delay=delay)
        return None

    def _count(self, event_id: str) -> int:
        """Count a failure of an event, and return the total."""
        tries = self._tries.pop(event_id, 0) + 1
        self._tries[event_id] = tries
        if len(self._tries) > _MOST_KNOWN:
            self._tries.popitem(last=False)
        return tries

    def wake(self) -> None:
        """End a waiting ``take`` early."""
        self._woken = True
        self._changed.set()

    def fail(self, reason: Exception) -> None:
        """Make ``take`` raise, because an ingress failed for good."""
        self._failure = self._failure or reason
        self._changed.set()

    def close(self) -> None:
        """Resolve all open events as not committed."""
        self._closed = True
        for queued in list(self._unanswered):
            self.resolve(queued, committed=False)

    def _take_now(self, most: int) -> list[QueuedEvent]:
        taken: list[QueuedEvent] = []
        while len(taken) < most and self._next_due() == 0.0:
            taken.append(heapq.heappop(self._deferred)[2])
        while len(taken) < most and self._queue:
            queued = self._queue.popleft()
            self._bytes -= len(queued.body)
            taken.append(queued)
        self._mark_space()
        return taken

    def _next_due(self) -> float | None:
        """Return the seconds until a deferred event is due; None if none is deferred."""
        if not self._deferred:
            return None
        return max(0.0, self._deferred[0][0] - asyncio.get_running_loop().time())

    def _mark_space(self) -> None:
        has_space = len(self._queue) < _MOST_QUEUED and self._bytes < _MOST_BYTES_QUEUED
        if has_space and len(self._deferred) < _MOST_DEFERRED:
            self._space.set()
        else:
            self._space.clear()
