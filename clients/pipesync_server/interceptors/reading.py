"""Limits on reading requests: a timeout, and slots for callers that the server does not know.

gRPC holds a whole message, twice for a moment, before its size is known. So the memory that unknown
callers use is limited by the number of their messages that are read at once.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Protocol, TypeVar

from google.rpc import code_pb2

from pipesync_rpc.errors import RpcError
from pipesync_rpc.reasons import Reason

_T = TypeVar("_T")

# The requests of gRPC's own services hold only a name.
MAX_INFRASTRUCTURE_BYTES = 4096
# Seconds that callers without a token have to send each message.
_INFRASTRUCTURE_SECONDS = 10.0
# Messages of these callers that are read at once, and messages that wait in each queue.
_MAX_READ = 2
_MAX_WAITING = 10_000
# Seconds within which a message that was sent with its call is read. A slower message loses its
# slot to a waiting one; on a connection whose last message was late, it does so sooner.
_PROMPT_SECONDS = 0.05
_PROMPT_SECONDS_AFTER_LATE = 0.02
_STATUS_TIMEOUT = 1.0
_RETRY_DELAY = timedelta(seconds=1)


class RequestNotReceived(RpcError):
    """The caller must send its request together with the call."""

    default_code = code_pb2.DEADLINE_EXCEEDED
    default_reason = Reason.REQUEST_NOT_RECEIVED


class MessageReader(Protocol):
    """Reads messages within a limit."""

    async def bounded(self, read: Callable[[], Awaitable[_T]]) -> _T:
        """Read a message.

        Raises:
            RequestNotReceived: The message did not arrive in time.
        """
        ...


class ReadTimeout:
    """Reads a message within a timeout, in seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    async def bounded(self, read: Callable[[], Awaitable[_T]]) -> _T:
        """Read a message.

        Raises:
            RequestNotReceived: The message did not arrive in time.
        """
        try:
            async with asyncio.timeout(self._seconds) as limit:
                return await read()
        except TimeoutError:
            if not limit.expired():
                raise
            raise not_received(self._seconds) from None


class UnknownCallerSlots:
    """Reads messages of unknown callers, a few at a time.

    A late message loses its slot to a waiting one, and from then on its connection waits until no
    other connection does. So messages that never arrive, however many, do not delay one that does.
    """

    def __init__(self, seconds: float = _INFRASTRUCTURE_SECONDS) -> None:
        self._seconds = seconds
        # Oldest first; the values in ``_read`` say whether the message is late.
        self._read: dict[_Turn, bool] = {}
        self._waiting: dict[_Turn, None] = {}
        self._waiting_after_others: dict[_Turn, None] = {}
        self._late_connections: dict[str, None] = {}

    def of(self, connection: str) -> "MessageReader":
        """Return the reader of a connection's messages, given gRPC's name of its peer."""
        return _ConnectionReader(self, connection)

    async def bounded(self, connection: str, read: Callable[[], Awaitable[_T]]) -> _T:
        """Read a message of the connection, in its turn.

        Raises:
            RequestNotReceived: The message did not arrive in time, or lost its slot.
        """
        turn = _Turn(connection, self._seconds)
        try:
            async with turn.limit:
                if len(self._read) >= _MAX_READ:
                    await self._wait(turn)
                else:
                    self._begin(turn)
                return await read()
        except TimeoutError:
            if not turn.limit.expired():
                raise
            if turn.is_abandoned:
                raise RequestNotReceived(
                    "the request did not arrive at once, and too many others wait: send it again",
                    code=code_pb2.RESOURCE_EXHAUSTED,
                    retry_delay=_RETRY_DELAY,
                ) from None
            raise not_received(self._seconds) from None
        finally:
            if turn.limit.expired():
                self._end_with_call(turn)
            else:
                self._end(turn)

    async def _wait(self, turn: "_Turn") -> None:
        turn.begun = asyncio.Event()
        is_late = turn.connection in self._late_connections
        queue = self._waiting_after_others if is_late else self._waiting
        queue[turn] = None
        if len(queue) > _MAX_WAITING:
            oldest = next(iter(queue))
            del queue[oldest]
            oldest.abandon()
        self._preempt_late()
        await turn.begun.wait()

    def _begin(self, turn: "_Turn") -> None:
        loop = asyncio.get_running_loop()
        self._read[turn] = False
        turn.was_late_before = turn.connection in self._late_connections
        prompt = _PROMPT_SECONDS_AFTER_LATE if turn.was_late_before else _PROMPT_SECONDS
        turn.timer = loop.call_later(prompt, self._note_late, loop, turn, 2)
        if turn.begun is not None:
            turn.begun.set()

    def _note_late(self, loop: asyncio.AbstractEventLoop, turn: "_Turn", rounds: int) -> None:
        # A message that arrives while the loop is busy takes two rounds to be delivered.
        if rounds:
            loop.call_soon(self._note_late, loop, turn, rounds - 1)
        elif turn in self._read:
            self._read[turn] = True
            late = self._late_connections
            late.pop(turn.connection, None)
            late[turn.connection] = None
            if len(late) > _MAX_WAITING:
                del late[next(iter(late))]
            self._preempt_late()

    def _preempt_late(self) -> None:
        if not self._waiting and not self._waiting_after_others:
            return
        for turn, is_late in self._read.items():
            # Repeatedly late connections never take a slot from one that was not late before.
            may_end = turn.was_late_before or bool(self._waiting)
            if is_late and may_end and not turn.is_abandoned:
                turn.abandon()
                return

    def _end_with_call(self, turn: "_Turn") -> None:
        # gRPC continues to read the message until the call has its status.
        if (task := asyncio.current_task()) is not None:
            task.add_done_callback(lambda _: self._end(turn))
        if turn.timer is not None:
            turn.timer.cancel()
        # A caller that does not take its status does not delay others.
        turn.timer = asyncio.get_running_loop().call_later(_STATUS_TIMEOUT, self._end, turn)

    def _end(self, turn: "_Turn") -> None:
        if turn.timer is not None:
            turn.timer.cancel()
        self._waiting.pop(turn, None)
        self._waiting_after_others.pop(turn, None)
        is_late = self._read.pop(turn, None)
        if is_late is None:
            return
        if not is_late and not turn.limit.expired():
            self._late_connections.pop(turn.connection, None)
        for queue in (self._waiting, self._waiting_after_others):
            if queue:
                oldest = next(iter(queue))
                del queue[oldest]
                self._begin(oldest)
                return


class _ConnectionReader:
    def __init__(self, slots: UnknownCallerSlots, connection: str) -> None:
        self._slots = slots
        self._connection = connection

    async def bounded(self, read: Callable[[], Awaitable[_T]]) -> _T:
        return await self._slots.bounded(self._connection, read)


class _Turn:
    def __init__(self, connection: str, seconds: float) -> None:
        self.connection = connection
        self.limit = asyncio.timeout(seconds)
        self.begun: asyncio.Event | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.was_late_before = False
        self.is_abandoned = False

    def abandon(self) -> None:
        """End the wait now, unless its time is up."""
        if not self.limit.expired():
            self.is_abandoned = True
            self.limit.reschedule(asyncio.get_running_loop().time())


def not_received(seconds: float) -> RequestNotReceived:
    """Return the error for a request that took longer."""
    return RequestNotReceived(f"the request did not arrive within {seconds:g} s")
