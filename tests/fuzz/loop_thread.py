"""An event loop in a thread of its own, which connects to this machine alone."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from ipaddress import ip_address
from typing import Any, Self, TypeVar

from tests.loop_blocks import LoopBlocks, watched

T = TypeVar("T")


class ConfinedLoop(asyncio.SelectorEventLoop):
    """Event loop that neither looks up names nor connects beyond loopback, for any made-up address.

    Attributes:
        failures: Messages of exceptions that reached the loop's handler.
    """

    def __init__(self) -> None:
        super().__init__()
        self.failures: list[str] = []
        self.set_exception_handler(self._note)

    def _note(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        # The driver reports this for a task that was cancelled while it began a transaction.
        if str(context.get("message")).startswith("Resetting connection with an active"):
            return
        self.failures.append(f"{context.get('message')}: {context.get('exception')!r}")

    async def getaddrinfo(self, host: Any, port: Any, **options: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if name not in (None, "", "localhost") and not _is_loopback(name):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return await super().getaddrinfo(host, port, **options)

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        if sock.family != socket.AF_UNIX and not _is_loopback(str(address[0])):
            raise ConnectionRefusedError("no test connects beyond loopback")
        await super().sock_connect(sock, address)


class LoopThread:
    """Runs a confined loop from ``with`` to its end.

    Attributes:
        blocks: Times that the loop was blocked; None unless it is watched.
    """

    def __init__(self, name: str, *, is_watched: bool = False) -> None:
        self.loop = ConfinedLoop()
        self.blocks: LoopBlocks | None = None
        self._is_watched = is_watched
        self._stack = AsyncExitStack()
        self._thread = threading.Thread(target=self.loop.run_forever, name=name, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        if self._is_watched:
            self.blocks = self.enter(watched())
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.run(self._stack.aclose(), timeout=60)
            self.run(self.loop.shutdown_asyncgens())
            self.run(self.loop.shutdown_default_executor())
        finally:
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join(30)
            self.loop.close()

    def run(self, coroutine: Coroutine[Any, Any, T], *, timeout: float = 60) -> T:
        """Run a coroutine in the loop, wait for it, and return its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(timeout)

    def enter(self, manager: AbstractAsyncContextManager[T]) -> T:
        """Enter the manager in the loop; it is left when the thread ends."""
        return self.run(self._stack.enter_async_context(_in_one_task(manager)))


@asynccontextmanager
async def _in_one_task(manager: AbstractAsyncContextManager[T]) -> AsyncIterator[T]:
    """Enter and leave the manager in one task, which managers with a timeout inside require."""
    loop = asyncio.get_running_loop()
    entered: asyncio.Future[T] = loop.create_future()
    leave = asyncio.Event()

    async def live() -> None:
        try:
            async with manager as value:
                entered.set_result(value)
                await leave.wait()
        except BaseException as error:
            if entered.done():
                raise
            entered.set_exception(error)

    task = asyncio.create_task(live())
    yield await entered
    leave.set()
    await task


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False
