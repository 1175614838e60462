"""The calls in flight."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipesync_rpc.errors import RpcError
from pipesync_server.access import Principal

# These may last until their caller ends them, so a stopping server does not wait for them.
_INFRASTRUCTURE = ("/grpc.health.", "/grpc.reflection.")


def is_infrastructure(method: str) -> bool:
    """Return whether ``/package.Service/Method`` belongs to gRPC itself."""
    return method.startswith(_INFRASTRUCTURE)


class CallsInFlight:
    """Tracks every call from its first interceptor to its sent status.

    A stopped grpc.aio server may still run handlers' ``finally`` blocks, which need the pools that
    the program is about to close. The server waits for this set first.
    """

    def __init__(self) -> None:
        self._tasks: dict[asyncio.Task[object], str] = {}
        self._callers: dict[asyncio.Task[object], Principal] = {}
        self._cancellations: dict[asyncio.Task[object], RpcError] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    @contextmanager
    def tracked(self, method: str) -> Iterator[None]:
        """Track the current task, which gRPC made for this call, until it ends."""
        task = asyncio.current_task()
        assert task is not None, "a handler runs in a task"  # noqa: S101 - for the type checker
        self._tasks[task] = method
        task.add_done_callback(self._forget)
        yield

    def note_caller(self, caller: Principal) -> None:
        """Record the caller of the current task's call."""
        task = asyncio.current_task()
        if task in self._tasks:
            self._callers[task] = caller

    def cancel_infrastructure(self, answer: RpcError) -> None:
        """Cancel health watches and reflection, which would never end by themselves."""
        for task, method in list(self._tasks.items()):
            if is_infrastructure(method):
                self._cancel(task, answer)

    def cancel_callers(self, is_valid: Callable[[Principal], bool], answer: RpcError) -> None:
        """Cancel the calls of callers that are no longer admitted."""
        for task, caller in list(self._callers.items()):
            if task not in self._cancellations and not is_valid(caller):
                self._cancel(task, answer)

    def cancellation(self) -> RpcError | None:
        """Return the error to answer if the server, not the caller, cancelled the current call."""
        task = asyncio.current_task()
        return self._cancellations.get(task) if task is not None else None

    def is_cancelled(self) -> bool:
        """Return whether the current task was cancelled."""
        task = asyncio.current_task()
        return task is not None and task.cancelling() > 0

    async def ended(self, timeout: float) -> bool:
        """Wait until no call is left; False after ``timeout`` seconds."""
        if not self._tasks:
            return True
        _, pending = await asyncio.wait(list(self._tasks), timeout=timeout)
        return not pending

    async def all_ended(self) -> None:
        """Wait until no call is left, including calls that begin meanwhile."""
        while self._tasks:
            await asyncio.wait(list(self._tasks))

    def _cancel(self, task: asyncio.Task[object], answer: RpcError) -> None:
        self._cancellations[task] = answer
        task.cancel()

    def _forget(self, task: asyncio.Task[object]) -> None:
        self._tasks.pop(task, None)
        self._callers.pop(task, None)
        self._cancellations.pop(task, None)
