"""The calls that a server is handling now."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

# These may last as long as their caller does, so a server that stops does not wait for them.
_INFRASTRUCTURE = ("/grpc.health.", "/grpc.reflection.")


def is_infrastructure(method: str) -> bool:
    """Whether ``method`` (``/package.Service/Method``) belongs to gRPC itself."""
    return method.startswith(_INFRASTRUCTURE)


class CallsInFlight:
    """Every call from its first interceptor to its sent status.

    A stopped grpc.aio server may still have handlers in their ``finally`` blocks, which need the
    pools that the program is about to close: this set is what it waits for.
    """

    def __init__(self) -> None:
        self._tasks: dict[asyncio.Task[object], str] = {}
        self._dismissed: set[asyncio.Task[object]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    @contextmanager
    def entered(self, method: str) -> Iterator[None]:
        """Counts the current task, which gRPC made for this one call, until it ends."""
        task = asyncio.current_task()
        assert task is not None, "a handler runs in a task"  # noqa: S101 - for the type checker
        self._tasks[task] = method
        task.add_done_callback(self._forget)
        yield

    def dismiss_infrastructure(self) -> None:
        """Cancels health watches and reflection, which would never end by themselves."""
        for task, method in list(self._tasks.items()):
            if is_infrastructure(method):
                self._dismissed.add(task)
                task.cancel()

    def is_dismissed(self) -> bool:
        """Whether the server, and not the caller, cancelled the current task."""
        return asyncio.current_task() in self._dismissed

    def is_cancelled(self) -> bool:
        """Whether anybody cancelled the current task."""
        task = asyncio.current_task()
        return task is not None and task.cancelling() > 0

    async def ended(self, timeout: float) -> bool:
        """Waits until none is left; False when ``timeout`` seconds were not enough."""
        if not self._tasks:
            return True
        _, pending = await asyncio.wait(list(self._tasks), timeout=timeout)
        return not pending

    def _forget(self, task: asyncio.Task[object]) -> None:
        self._tasks.pop(task, None)
        self._dismissed.discard(task)
