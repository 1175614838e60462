"""Batches of gRPC operations that release their memory however they end.

grpcio 1.85 releases the metadata and messages of a batch when the coroutine that awaits the batch
resumes. It never does when the batch fails, because the caller has disconnected, nor when the
coroutine is cancelled: each refused call of a disconnected caller would leave a kilobyte behind,
and each response its size (https://github.com/grpc/grpc/issues/43360).
"""

import asyncio
from collections.abc import Callable, Coroutine, Generator
from importlib import import_module
from typing import Any

import grpc

# Compiled, without type stubs.
cygrpc: Any = import_module("grpc._cython.cygrpc")

_RELEASE = "1.85."
_start: Any = getattr(cygrpc, "execute_batch", None)


def release_all_batches() -> None:
    """Have every batch of this process release its memory, those of its channels included.

    This changes nothing in another release of grpcio, which may have other functions inside.
    """
    if grpc.__version__.startswith(_RELEASE):
        # The compiled functions look this name up whenever they call it.
        cygrpc.execute_batch = _execute


async def _execute(call: Any, operations: tuple[Any, ...], loop: asyncio.AbstractEventLoop) -> None:
    """Execute a batch; grpcio's ``execute_batch`` is left to run to its end by itself.

    Raises:
        ExecuteBatchError: The batch failed, or could not be started.
    """
    ended = loop.create_future()
    batch = _Batch(ended)
    batch.start(_start(call, operations, batch))
    await ended


class _Batch:
    """Takes the place of the loop, and of the future that grpcio completes, for one batch.

    The future never fails and is never cancelled, so that grpcio's coroutine always resumes.
    """

    __slots__ = ("_coroutine", "_ended")

    def __init__(self, ended: asyncio.Future[None]) -> None:
        self._ended = ended
        self._coroutine: Coroutine[None, None, None] | None = None

    def start(self, coroutine: Coroutine[None, None, None]) -> None:
        """Run the coroutine until it awaits the batch."""
        coroutine.send(None)
        self._coroutine = coroutine

    def create_future(self) -> "_Batch":
        return self

    def call_soon_threadsafe(self, callback: Callable[..., Any], *arguments: Any) -> None:
        # gRPC calls this in the loop that its events arrive in, which is nearly always the same.
        loop = self._ended.get_loop()
        if asyncio.get_running_loop() is loop:
            callback(*arguments)
        else:
            loop.call_soon_threadsafe(callback, *arguments)

    def __await__(self) -> Generator[None]:
        yield

    def cancelled(self) -> bool:
        return False

    def set_result(self, _: None) -> None:
        self._end(None)

    def set_exception(self, failure: BaseException) -> None:
        self._end(failure)

    def _end(self, failure: BaseException | None) -> None:
        """Release the batch, and then wake its caller, which may have been cancelled."""
        coroutine, self._coroutine = self._coroutine, None
        try:
            if coroutine is not None:
                coroutine.send(None)
        except StopIteration:
            pass
        except BaseException as error:
            # Raised where the batch is awaited.
            failure = failure or error
        if self._ended.done():
            return
        if failure is None:
            self._ended.set_result(None)
        else:
            self._ended.set_exception(failure)
