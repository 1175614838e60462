"""Read of a source that begins before its starting point is confirmed."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator

from engine_server.connectors.protocols import Messages
from engine_server.stages.hard_limit import end_task
from pipesync.v1.message_pb2 import Message


class OptimisticReading:
    """Reads up to the first data, and buffers it until the read is confirmed or closed."""

    def __init__(self, messages: Messages, *, stop_timeout: float) -> None:
        """Start to read.

        Args:
            messages: Messages of the source; closed at the end.
            stop_timeout: Seconds that the source may take to stop.
        """
        self._messages = messages
        self._stop_timeout = stop_timeout
        self._held: deque[Message] = deque()
        self._changed = asyncio.Event()
        self._is_confirmed = False
        self._task = asyncio.create_task(self._read_ahead())
        self._task.add_done_callback(lambda _: self._changed.set())

    async def confirmed(self) -> AsyncGenerator[Message, None]:
        """Confirm the read; yield the buffered messages, and then the rest.

        Raises:
            Exception: The source's error, after the messages before it.
        """
        self._is_confirmed = True
        try:
            while self._held or not self._task.done():
                while self._held:
                    yield self._held.popleft()
                if not self._task.done():
                    self._changed.clear()
                    await self._changed.wait()
            if not self._task.result():
                async for message in self._messages:
                    yield message
        finally:
            await self.close()

    async def close(self) -> None:
        """End the read, confirmed or not; idempotent."""
        self._held.clear()
        if not self._task.done():
            self._task.cancel()
            await end_task(self._task, self._stop_timeout)
        elif not self._task.cancelled():
            # Retrieve the error of a discarded read, so that asyncio does not log it.
            self._task.exception()
        # A generator that ignored its cancellation is still running and cannot be closed.
        if not getattr(self._messages, "ag_running", False):
            await self._messages.aclose()

    async def _read_ahead(self) -> bool:
        """Buffer messages up to the first with data.

        Returns:
            Whether the messages have ended.
        """
        async for message in self._messages:
            self._held.append(message)
            self._changed.set()
            has_data = message.HasField("record_batch") or message.HasField("source_state")
            if has_data or self._is_confirmed:
                return False
        return True
