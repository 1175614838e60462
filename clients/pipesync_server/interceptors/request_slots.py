"""Limit on the requests that a server reads at once.

gRPC buffers the part of a message that has arrived, so requests that never complete use memory that
no budget counts. Until the server reads a request, all but 64 KiB of it stay with the caller.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TypeVar

from google.rpc import code_pb2

from pipesync_server.interceptors.reading import MessageReader, RequestNotReceived, not_received

_T = TypeVar("_T")

# Seconds within which a request that is sent with its call arrives.
_PROMPT_SECONDS = 0.1
_RETRY_DELAY = timedelta(seconds=1)


class RequestSlots:
    """Limit the requests that are read at once, and share the slots among callers.

    A free slot goes to the waiting caller with the fewest slots. While a caller waits, the caller
    with the most slots loses its oldest one whose request is late. A caller that sends its requests
    with its calls therefore waits only briefly, regardless of other callers.
    """

    def __init__(self, seconds: float, count: int) -> None:
        """Create the slots.

        Args:
            seconds: Time that a request has to arrive.
            count: Requests that are read at once.
        """
        self._seconds = seconds
        self._free = count
        self._held: Counter[str] = Counter()
        # Oldest first.
        self._late: defaultdict[str, dict[_Request, None]] = defaultdict(dict)
        self._waiting: defaultdict[str, dict[_Request, None]] = defaultdict(dict)

    def of(self, caller: str) -> MessageReader:
        """Return the reader of one caller's requests; ``caller`` is its name in the budgets."""
        return _CallerReader(self, caller)

    async def bounded(self, caller: str, read: Callable[[], Awaitable[_T]]) -> _T:
        """Read a request.

        Raises:
            RequestNotReceived: The request did not arrive in time, or was late while others waited.
        """
        request = _Request(caller)
        try:
            async with request.limit:
                if self._waiting or self._free == 0:
                    await self._wait(request)
                else:
                    self._grant(request)
                return await read()
        except TimeoutError:
            if not request.limit.expired():
                raise
            if request.is_abandoned or request.timer is None:
                problem = "did not arrive at once" if request.is_abandoned else "waited too long"
                raise RequestNotReceived(
                    f"the request {problem}, and others wait: send it again",
                    code=code_pb2.RESOURCE_EXHAUSTED,
                    retry_delay=_RETRY_DELAY,
                ) from None
            raise not_received(self._seconds) from None
        finally:
            self._end(request)

    async def _wait(self, request: "_Request") -> None:
        request.turn = asyncio.Event()
        request.limit.reschedule(asyncio.get_running_loop().time() + self._seconds)
        self._waiting[request.caller][request] = None
        self._preempt_late()
        await request.turn.wait()

    def _grant(self, request: "_Request") -> None:
        self._held[request.caller] += 1
        self._free -= 1
        loop = asyncio.get_running_loop()
        request.timer = loop.call_later(_PROMPT_SECONDS, self._note_late, loop, request, 2)
        if request.turn is not None:
            request.turn.set()

    def _note_late(self, loop: asyncio.AbstractEventLoop, request: "_Request", rounds: int) -> None:
        if request.timer is None:
            return
        if rounds:
            # A request that arrives while the loop is busy takes two rounds to be delivered.
            loop.call_soon(self._note_late, loop, request, rounds - 1)
            return
        self._late[request.caller][request] = None
        if request.limit.when() is None:
            # Only now, because a timer for each request would cost more than reading most of them.
            request.limit.reschedule(loop.time() + self._seconds - _PROMPT_SECONDS)
        if self._waiting:
            self._preempt_late()

    def _preempt_late(self) -> None:
        held, most = self._held, max(self._held.values())
        next_one = self._next_caller()
        for caller, requests in self._late.items():
            if held[caller] == most and (most > held[next_one] or caller == next_one):
                oldest = next(iter(requests))
                _remove(self._late, oldest)
                oldest.abandon()
                return

    def _next_caller(self) -> str:
        return min(self._waiting, key=self._held.__getitem__)

    def _end(self, request: "_Request") -> None:
        if request.turn is not None:
            _remove(self._waiting, request)
        if request.timer is None:
            return
        request.timer.cancel()
        request.timer = None
        if self._late:
            _remove(self._late, request)
        self._free += 1
        self._held[request.caller] -= 1
        if not self._held[request.caller]:
            del self._held[request.caller]
        if request.caller in self._waiting:
            # Behind callers with as few slots; otherwise it would get this slot again and again.
            self._waiting[request.caller] = self._waiting.pop(request.caller)
        if self._waiting:
            oldest = next(iter(self._waiting[self._next_caller()]))
            _remove(self._waiting, oldest)
            self._grant(oldest)


def _remove(requests: dict[str, dict["_Request", None]], request: "_Request") -> None:
    own = requests.get(request.caller, {})
    if request in own:
        del own[request]
        if not own:
            del requests[request.caller]


class _CallerReader:
    def __init__(self, slots: RequestSlots, caller: str) -> None:
        self._slots = slots
        self._caller = caller

    async def bounded(self, read: Callable[[], Awaitable[_T]]) -> _T:
        return await self._slots.bounded(self._caller, read)


class _Request:
    """A request that is being waited for.

    Attributes:
        limit: Ends the wait.
        turn: Set when the request gets a slot; None if it did not have to wait for one.
        timer: Marks the request late; None while it has no slot.
        is_abandoned: Whether it has lost its slot.
    """

    __slots__ = ("caller", "is_abandoned", "limit", "timer", "turn")

    def __init__(self, caller: str) -> None:
        self.caller = caller
        self.limit = asyncio.timeout(None)
        self.turn: asyncio.Event | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.is_abandoned = False

    def abandon(self) -> None:
        """End the wait now, unless its time is up."""
        if not self.limit.expired():
            self.is_abandoned = True
            self.limit.reschedule(asyncio.get_running_loop().time())
