"""Exceptions that a database may raise, and a database that raises them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Self, TypeVar

import asyncpg

from service_server.errors import StoreUnavailable
from service_server.store.database import Connection, Database

T = TypeVar("T")


def all_faults() -> list[BaseException]:
    """Return an exception of every class of asyncpg, of every SQLSTATE, and of other libraries."""
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
    """A database whose next connections raise one exception each.

    Attributes:
        faults: The exceptions that are still to be raised.
    """

    faults: list[BaseException]

    @classmethod
    def of(cls, database: Database) -> Self:
        """Return the same database, without exceptions yet."""
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
    """Wait until other tasks have made the condition true."""
    async with asyncio.timeout(seconds):
        while not is_so():  # noqa: ASYNC110 - of many kinds, none with an event
            await asyncio.sleep(0.005)


async def eventually(read: Callable[[], Awaitable[T]], wanted: T, *, seconds: float = 90) -> None:
    """Read until a database or a service returns the wanted value."""
    found = None
    try:
        async with asyncio.timeout(seconds):
            while (found := await read()) != wanted:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"it stays {found}") from None
