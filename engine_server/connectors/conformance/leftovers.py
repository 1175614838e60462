"""Detection of tasks, files and sockets that a connector leaves open."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

# Closing a socket takes one iteration of the event loop, and a server in this process a few more.
CLOSE_TIMEOUT = 1.0

_DESCRIPTORS = Path("/dev/fd")

_is_watched: ContextVar[bool] = ContextVar("is_watched", default=False)


@asynccontextmanager
async def nothing_left_behind() -> AsyncIterator[None]:
    """Fail if the block leaves tasks, files or sockets open.

    Tasks started by the block, or by these tasks, must be done at its end. Files and sockets must
    be closed within a second; systems without ``/dev/fd``, such as Windows, skip that check.
    Tasks of a server in the same process are ignored.

    Raises:
        AssertionError: Something is left open; the message names it.
    """
    loop = asyncio.get_running_loop()
    factory = loop.get_task_factory()
    tasks: list[asyncio.Task[Any]] = []

    def watch(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        made: Any = (factory or _new_task)(loop, coroutine, **options)
        if _is_watched.get():
            tasks.append(made)
        return made  # type: ignore[no-any-return]  # a factory may make any kind of task

    before = _open_descriptors()
    loop.set_task_factory(watch)
    token = _is_watched.set(True)
    try:
        yield
        if running := [task for task in tasks if not task.done()]:
            raise AssertionError(f"tasks were left running: {running}")
        ended = len(tasks)
        # The event loop closes a generator that was dropped instead of closed in a new task.
        await asyncio.sleep(0)
        if late := tasks[ended:]:
            raise AssertionError(f"generators were not closed, or tasks started late: {late}")
    finally:
        _is_watched.reset(token)
        loop.set_task_factory(factory)
    if left := await _left_open(before):
        raise AssertionError(f"files or sockets were not closed: {left}")


def _new_task(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
    return asyncio.Task(coroutine, loop=loop, **options)


async def _left_open(before: frozenset[tuple[int, int, int]]) -> list[str]:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + CLOSE_TIMEOUT
    while left := _open_descriptors() - before:
        if loop.time() > deadline:
            return sorted(_described(descriptor) for descriptor, _, _ in left)
        await asyncio.sleep(0.005)
    return []


def _open_descriptors() -> frozenset[tuple[int, int, int]]:
    """Return the open descriptors with device and inode, because numbers are reused."""
    found = set()
    for entry in list(_DESCRIPTORS.iterdir()) if _DESCRIPTORS.is_dir() else ():
        try:
            status = os.fstat(int(entry.name))
        except OSError:
            # The descriptor of the listing itself is closed by now.
            continue
        found.add((int(entry.name), status.st_dev, status.st_ino))
    return frozenset(found)


def _described(descriptor: int) -> str:
    try:
        return str((_DESCRIPTORS / str(descriptor)).readlink())
    except OSError:
        return f"descriptor {descriptor}"
