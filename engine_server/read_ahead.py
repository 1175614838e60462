"""Buffer that reads messages ahead in its own task."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable

from pipesync.v1.message_pb2 import Message

# Two pages with their checkpoints. Waking the reading task for each message would be slower.
MOST_WAITING = 4


class ReadAhead:
    """Reads at most four messages ahead of its consumer.

    The consumer can wait for messages and other events at once without a new task per message.
    Other tasks of the process get to run even if neither side ever waits.
    """

    def __init__(self, messages: AsyncIterator[Message], on_change: Callable[[], object]) -> None:
        """Start to read.

        Args:
            messages: The messages; no other task may read them, and the caller closes them.
            on_change: Called when the result of ``take`` or ``is_over`` may have changed.
        """
        self._waiting: deque[Message] = deque()
        self._on_change = on_change
        self._has_room = asyncio.Event()
        self._is_stopped = False
        self._task = asyncio.create_task(self._read(messages))
        self._task.add_done_callback(lambda _: on_change())

    @property
    def is_over(self) -> bool:
        """Whether the messages have ended and all of them were taken."""
        return not self._waiting and self._task.done()

    def take(self) -> Message | None:
        """Return the next message; None if none is available yet, or no more will follow.

        Raises:
            Exception: The error that ended the messages, after those before it were taken.
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
        """Cancel the reading; buffered messages can still be taken, and no error is raised.

        Returns:
            The reading task, for the caller to await: afterwards, nothing reads the messages.
        """
        self._is_stopped = True
        self._task.cancel()
        return self._task

    async def _read(self, messages: AsyncIterator[Message]) -> None:
        async for message in messages:
            self._waiting.append(message)
            self._on_change()
            if len(self._waiting) == MOST_WAITING:
                self._has_room.clear()
                await self._has_room.wait()
