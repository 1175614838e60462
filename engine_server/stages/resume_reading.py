"""A reading that begins before it is known whether the source is read from the right place."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator

from engine_server.connectors.protocols import Messages
from engine_server.stages.hard_limit import end_task
from pipesync.v1.message_pb2 import Message


class OptimisticReading:
    """Reads up to the first data, and holds that until the reading is confirmed or given up."""

    def __init__(self, messages: Messages, *, patience: float) -> None:
        """Begin to read.

        Args:
            messages: The source's; closed in the end.
            patience: How many seconds they may take to stop.
        """
        self._messages = messages
        self._patience = patience
        self._held: deque[Message] = deque()
        self._news = asyncio.Event()
        self._is_confirmed = False
        self._task = asyncio.create_task(self._read_ahead())
        self._task.add_done_callback(lambda _: self._news.set())

    async def confirmed(self) -> AsyncGenerator[Message, None]:
        """Yield the messages that were read so far, and read on.

        Raises:
            Exception: The source's, behind the messages before it.
        """
        self._is_confirmed = True
        try:
            while self._held or not self._task.done():
                while self._held:
                    yield self._held.popleft()
                if not self._task.done():
                    self._news.clear()
                    await self._news.wait()
            if not self._task.result():
                async for message in self._messages:
                    yield message
        finally:
            await self.close()

    async def close(self) -> None:
        """End the reading, whether it was confirmed or not; may be called again."""
        self._held.clear()
        if not self._task.done():
            self._task.cancel()
            await end_task(self._task, self._patience)
        elif not self._task.cancelled():
            # Of a reading that was given up, nothing counts.
            self._task.exception()
        # One that did not heed its cancellation is still running: it cannot be closed, only left.
        if not getattr(self._messages, "ag_running", False):
            await self._messages.aclose()

    async def _read_ahead(self) -> bool:
        """Hold messages, the first with data last.

        Returns:
            Whether the messages are over.
        """
        async for message in self._messages:
            self._held.append(message)
            self._news.set()
            has_data = message.HasField("record_batch") or message.HasField("source_state")
            if has_data or self._is_confirmed:
                return False
        return True
