"""Every exception that a database may raise, and a database that raises them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Self, TypeVar

import asyncpg

from service_server.errors import StoreUnavailable
from service_server.store.database import Connection, Database

T = TypeVar("T")


def all_faults() -> list[BaseException]:
    """One of every class that asyncpg has, of every SQLSTATE, and of what else may come up."""
    classes = {*_subclasses(asyncpg.PostgresError), *_subclasses(asyncpg.InterfaceError)}
    faults: list[BaseException] = [
        one("injected") for one in sorted(classes, key=lambda each: each.__name__)
    ]
    states = {getattr(one, "sqlstate", None) for one in faults}
    # Of the fail-over, the password, the conflict, the full disk, the crash, the pooler.
    assert {"25006", "28P01", "40001", "53100", "57P02", "XX000"} <= states
    return [
        *faults,
        asyncpg.InternalClientError("injected"),
        OSError("injected"),
        ConnectionResetError("injected"),
        TimeoutError("injected"),
        RuntimeError("injected"),
        TypeError("injected"),
        # Of another task, which the loop waited for.
        asyncio.CancelledError("injected"),
        StoreUnavailable("injected"),
    ]


def _subclasses(kind: type[Exception]) -> Iterator[type[Exception]]:
    yield kind
    for each in kind.__subclasses__():
        yield from _subclasses(each)


class FaultyDatabase(Database):
    """A database each of whose next connections raises another fault.

    Attributes:
        faults: Still to be raised.
    """

    faults: list[BaseException]

    @classmethod
    def of(cls, database: Database) -> Self:
        """The same database, without any faults yet."""
        faulty = cls.__new__(cls)
        faulty.__dict__.update(database.__dict__)
        faulty.faults = []
        return faulty

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        if self.faults:
            raise self.faults.pop(0)
        async with super().connection() as connection:
            yield connection


async def until(is_so: Callable[[], bool], *, seconds: float = 60) -> None:
    """Waits for what other tasks bring about."""
    async with asyncio.timeout(seconds):
        while not is_so():  # noqa: ASYNC110 - of many kinds, none with an event
            await asyncio.sleep(0.005)


async def eventually(read: Callable[[], Awaitable[T]], wanted: T, *, seconds: float = 90) -> None:
    """Reads until it is as wanted: what a database or a service shows."""
    found = None
    try:
        async with asyncio.timeout(seconds):
            while (found := await read()) != wanted:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"it stays {found}") from None
