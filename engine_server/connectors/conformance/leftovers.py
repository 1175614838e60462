"""What a connector leaves behind: tasks that go on, files and sockets that stay open."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

# Closing a socket takes the event loop a turn, and a far side in this process a few more.
CLOSE_TIMEOUT = 1.0

_DESCRIPTORS = Path("/dev/fd")

_is_watched: ContextVar[bool] = ContextVar("is_watched", default=False)


@asynccontextmanager
async def nothing_left_behind() -> AsyncIterator[None]:
    """Fails when the block leaves something behind.

    Tasks started by the block, or by what it started, must be done at its end. Files and sockets
    must be closed a second later (not looked at where there is no ``/dev/fd``, as on Windows).
    A far side that serves from this process is not meant: its tasks are its own.

    Raises:
        AssertionError: names what is left.
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
            raise AssertionError(f"tasks were not ended: {running}")
        ended = len(tasks)
        # The event loop closes a generator that was dropped instead of closed, in a task.
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
    """Each with its device and inode, which tell it from a later one of the same number."""
    found = set()
    for entry in list(_DESCRIPTORS.iterdir()) if _DESCRIPTORS.is_dir() else ():
        try:
            status = os.fstat(int(entry.name))
        except OSError:
            # The one that listed them is closed by now.
            continue
        found.add((int(entry.name), status.st_dev, status.st_ino))
    return frozenset(found)


def _described(descriptor: int) -> str:
    try:
        return str((_DESCRIPTORS / str(descriptor)).readlink())
    except OSError:
        return f"descriptor {descriptor}"
