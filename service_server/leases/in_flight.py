"""Work in flight, which continues after its caller was cancelled."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import structlog

from pipesync.v1.message_pb2 import Message

_log = structlog.get_logger(__name__)

T = TypeVar("T")
Send = Callable[[Message], Awaitable[None]]

# Messages that may wait for a slow caller before the engine has to wait, too.
_WAITING_MESSAGES = 64


class InFlight:
    """All work in flight of this process, which waits for it before it exits."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    async def finish(self, work: Coroutine[Any, Any, T]) -> T:
        """Await ``work``, which continues if the caller is cancelled."""
        task = self._start(work)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_log_outcome)
            raise

    async def relay(
        self, work: Callable[[Send], Coroutine[Any, Any, None]], *, outlives_caller: bool = False
    ) -> AsyncGenerator[Message, None]:
        """Yield the messages that ``work`` sends.

        Args:
            work: Takes the function that sends a message, and that waits while the caller is slow.
            outlives_caller: Whether ``work`` continues after the caller was cancelled, without its
                messages. Otherwise it is cancelled as well, but may take as long as it needs to
                store its results.
        """
        slots = asyncio.Semaphore(_WAITING_MESSAGES)
        # None follows the last message.
        waiting: asyncio.Queue[Message | None] = asyncio.Queue()
        caller_is_gone = False

        async def send(message: Message) -> None:
            await slots.acquire()
            if caller_is_gone:
                slots.release()
            else:
                waiting.put_nowait(message)

        task = self._start(work(send))
        task.add_done_callback(lambda _: waiting.put_nowait(None))
        try:
            while (message := await waiting.get()) is not None:
                slots.release()
                yield message
            await task
        finally:
            caller_is_gone = True
            slots.release()
            if not task.done():
                task.add_done_callback(_log_outcome)
                if not outlives_caller:
                    task.cancel()

    async def drain(self, grace: float) -> None:
        """Wait until no work is left, and cancel the rest after ``grace`` seconds."""
        if not self._tasks:
            return
        _, pending = await asyncio.wait(self._tasks, timeout=grace)
        for task in pending:
            task.cancel()
        if pending:
            _log.warning("work_cancelled", count=len(pending))
            await asyncio.wait(pending)

    def _start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _log_outcome(task: asyncio.Task[Any]) -> None:
    """Log how work ended after its caller was cancelled."""
    if task.cancelled():
        _log.info("abandoned_work_ended", outcome="cancelled")
    elif (error := task.exception()) is None:
        _log.info("abandoned_work_ended", outcome="finished")
    else:
        _log.warning("abandoned_work_ended", outcome="failed", error=str(error))
