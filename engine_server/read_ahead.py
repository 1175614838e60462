"""Messages read in a task of their own, a little ahead of who takes them."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable

from pipesync.v1.message_pb2 import Message

# A page and its checkpoint, twice: a task that is woken for each message would cost more than that.
MOST_WAITING = 4


class ReadAhead:
    """Takes messages from an iterator before they are asked for, at most four of them.

    Whoever takes them waits for whatever else it waits for beside them, without a task each time.
    Even if nobody ever really waits, other tasks of the process get their turn.
    """

    def __init__(self, messages: AsyncIterator[Message], on_news: Callable[[], object]) -> None:
        """Starts to read.

        Args:
            messages: Not closed here. Read from no other task.
            on_news: Called when ``take`` or ``is_over`` may have something new to say.
        """
        self._waiting: deque[Message] = deque()
        self._on_news = on_news
        self._has_room = asyncio.Event()
        self._is_stopped = False
        self._task = asyncio.create_task(self._read(messages))
        self._task.add_done_callback(lambda _: on_news())

    @property
    def is_over(self) -> bool:
        """Whether the messages ended and all of them were taken."""
        return not self._waiting and self._task.done()

    def take(self) -> Message | None:
        """The next message; None while there is none, and when there will be none.

        Raises:
            Exception: Whatever ended the messages, once those before it were taken.
        """
        if not self._waiting:
            if self._task.done() and not self._is_stopped:
                self._task.result()
            return None
        message = self._waiting.popleft()
        if not self._waiting:
            self._has_room.set()
        return message

    def stop(self) -> asyncio.Task[None]:
        """Has the reading end; what was read may still be taken, and no error is raised any more.

        Returns:
            The task that reads: it has ended once nothing more is asked of the messages.
        """
        self._is_stopped = True
        self._task.cancel()
        return self._task

    async def _read(self, messages: AsyncIterator[Message]) -> None:
        async for message in messages:
            self._waiting.append(message)
            self._on_news()
            if len(self._waiting) == MOST_WAITING:
                self._has_room.clear()
                await self._has_room.wait()
