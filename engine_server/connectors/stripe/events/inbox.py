"""The events that came in and are not committed yet, whichever way they came."""

import asyncio
import heapq
import itertools
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import structlog

from engine_server.connectors.stripe.events.pace import ListeningPace

log = structlog.get_logger()

# What may wait for a history to be read. Stripe's webhook bodies are some kilobytes.
_MOST_WAITING = 1000
_MOST_BYTES_WAITING = 32 * 1024 * 1024
# An event that keeps failing is given up after an hour and a half or so, by the usual pace.
_MOST_TRIES = 12
_MOST_PUT_OFF = 100
# So many of the last committed ones are known again.
_MOST_KNOWN = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """Whoever sent an event, and waits to hear what became of it.

    Attributes:
        key: The same for one who sends it again and still waits for one answer.
        answer: Called once: with True when it is committed, with False when that cannot be now.
        comes_again: Whether the event is sent again after a False.
    """

    key: Hashable
    answer: Callable[[bool], None]
    comes_again: bool


@dataclass(slots=True, eq=False)
class Waiting:
    """One event that is not committed yet.

    Attributes:
        id: The event's.
        body: Its JSON.
        is_preferred: Whether another rendering of it counts less.
        senders: Who waits for it, by their keys.
        tries: How often it failed.
    """

    id: str
    body: bytes
    is_preferred: bool
    senders: dict[Hashable, Sender]
    tries: int = 0


class Inbox:
    """Holds so many events and no more; each is answered once what became of it is known."""

    def __init__(self, pace: ListeningPace) -> None:
        self._pace = pace
        self._queue: deque[Waiting] = deque()
        self._bytes = 0
        # In the queue, on their way, or put off.
        self._unanswered: set[Waiting] = set()
        # The latest of each event among them.
        self._open: dict[str, Waiting] = {}
        # By when each is due again.
        self._put_off: list[tuple[float, int, Waiting]] = []
        self._numbers = itertools.count()
        # Of each whether its preferred rendering was committed.
        self._committed: OrderedDict[str, bool] = OrderedDict()
        # How often each event failed by itself, also when it is sent anew each time.
        self._tries: OrderedDict[str, int] = OrderedDict()
        self._failure: Exception | None = None
        self._closed = self._woken = False
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    def put(self, event_id: str, body: bytes, sender: Sender, *, is_preferred: bool = True) -> bool:
        """Takes an event in, unless there is no room; what need not wait anew always fits.

        What is committed is answered at once, and what waits already waits for this sender, too.

        Args:
            event_id: ``evt_...``
            body: Its JSON.
            sender: Who sent it.
            is_preferred: Whether another rendering of the same event counts less.
        """
        known = self._committed.get(event_id)
        if self._closed or (known is not None and (known or not is_preferred)):
            sender.answer(not self._closed)
            return True
        waiting = self._open.get(event_id)
        if waiting is not None and (waiting.is_preferred or not is_preferred):
            waiting.senders[sender.key] = sender
            return True
        if not self._room.is_set():
            return False
        waiting = Waiting(event_id, body, is_preferred, {sender.key: sender})
        self._open[event_id] = waiting
        self._unanswered.add(waiting)
        self._queue.append(waiting)
        self._bytes += len(body)
        self._mark_room()
        self._news.set()
        return True

    async def room(self) -> None:
        """Waits until another event fits."""
        await self._room.wait()

    @property
    def has_events(self) -> bool:
        """Whether ``take`` would have some at once."""
        return bool(self._queue) or self._next_due() == 0.0

    async def take(self, most: int, *, at_most: float | None) -> list[Waiting]:
        """The next events, in the order of their arrival; none when the time is up.

        Args:
            most: How many.
            at_most: How many seconds to wait for the first one; None for ever, or until ``wake``.

        Raises:
            Exception: What ``fail`` was told.
        """
        loop = asyncio.get_running_loop()
        end = None if at_most is None else loop.time() + at_most
        while True:
            self._news.clear()
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
                    await self._news.wait()
            except TimeoutError:
                continue

    def answer(self, waiting: Waiting, *, committed: bool) -> None:
        """Tells all senders of an event that was taken what became of it."""
        self._unanswered.discard(waiting)
        if self._open.get(waiting.id) is waiting:
            del self._open[waiting.id]
        if committed:
            self._tries.pop(waiting.id, None)
            known = self._committed.pop(waiting.id, False)
            self._committed[waiting.id] = known or waiting.is_preferred
            if len(self._committed) > _MOST_KNOWN:
                self._committed.popitem(last=False)
        senders, waiting.senders = waiting.senders, {}
        for sender in senders.values():
            sender.answer(committed)

    def put_off(self, waiting: Waiting, reason: Exception, *, counts: bool = True) -> int | None:
        """Has an event that failed taken again later, if nobody sends it again.

        One that keeps failing by itself is given up, without ever being acknowledged.

        Args:
            waiting: The event.
            reason: Why it failed.
            counts: Whether it failed by itself; what Stripe fails at is put off for ever.

        Returns:
            How many times it was tried, when it is given up.
        """
        waiting.tries += 1
        own_tries = self._count(waiting.id) if counts else 0
        for sender in [sender for sender in waiting.senders.values() if sender.comes_again]:
            del waiting.senders[sender.key]
            sender.answer(False)
        failure = {
            "event_id": waiting.id,
            "tries": waiting.tries,
            "error": str(reason) or type(reason).__name__,
        }
        is_hopeless = own_tries >= _MOST_TRIES
        if counts and waiting.senders:
            is_hopeless = is_hopeless or len(self._put_off) >= _MOST_PUT_OFF
        if self._closed:
            self.answer(waiting, committed=False)
            log.warning("event_failed", **failure)
        elif is_hopeless:
            self._tries.pop(waiting.id, None)
            self.answer(waiting, committed=False)
            log.error("event_given_up", **failure)
            return own_tries
        elif not waiting.senders:
            self.answer(waiting, committed=False)
            log.warning("event_failed", **failure)
        else:
            delay = self._pace.put_off(waiting.tries)
            due = asyncio.get_running_loop().time() + delay
            heapq.heappush(self._put_off, (due, next(self._numbers), waiting))
            self._mark_room()
            log.warning("event_put_off", **failure, delay=delay)
        return None

    def _count(self, event_id: str) -> int:
        """Counts a failure of an event, and answers how many there were."""
        tries = self._tries.pop(event_id, 0) + 1
        self._tries[event_id] = tries
        if len(self._tries) > _MOST_KNOWN:
            self._tries.popitem(last=False)
        return tries

    def wake(self) -> None:
        """Has whoever takes look after other things."""
        self._woken = True
        self._news.set()

    def fail(self, reason: Exception) -> None:
        """Ends whoever takes: a way in is closed for good."""
        self._failure = self._failure or reason
        self._news.set()

    def close(self) -> None:
        """Answers all that is open: not committed, as far as is known."""
        self._closed = True
        for waiting in list(self._unanswered):
            self.answer(waiting, committed=False)

    def _take_now(self, most: int) -> list[Waiting]:
        taken: list[Waiting] = []
        while len(taken) < most and self._next_due() == 0.0:
            taken.append(heapq.heappop(self._put_off)[2])
        while len(taken) < most and self._queue:
            waiting = self._queue.popleft()
            self._bytes -= len(waiting.body)
            taken.append(waiting)
        self._mark_room()
        return taken

    def _next_due(self) -> float | None:
        """Seconds until something that was put off is due; None when nothing is."""
        if not self._put_off:
            return None
        return max(0.0, self._put_off[0][0] - asyncio.get_running_loop().time())

    def _mark_room(self) -> None:
        has_room = len(self._queue) < _MOST_WAITING and self._bytes < _MOST_BYTES_WAITING
        if has_room and len(self._put_off) < _MOST_PUT_OFF:
            self._room.set()
        else:
            self._room.clear()
