"""Fixtures of the Postgres destination's tests."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable

import asyncpg
import pytest

from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.connection import connect
from engine_server.connectors.postgres.write.ordered_writer import OrderedWriter
from pipesync.v1.message_pb2 import Message
from pipesync_postgres.unnamed_statements import UnnamedStatements


@pytest.fixture
def config(database_url: str) -> PostgresConfig:
    """A configuration for the schema "stripe" of an empty database."""
    return PostgresConfig.model_validate({"url": database_url})


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """Another session of the same database, for assertions."""
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


@pytest.fixture
def tables_made(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Set once a write has its tables, while its source already reads."""
    made = asyncio.Event()
    committed = OrderedWriter.committed

    def signalled(writer: OrderedWriter) -> AsyncGenerator[Message, None]:
        made.set()
        return committed(writer)

    monkeypatch.setattr(OrderedWriter, "committed", signalled)
    return made


class _KnownTypes(UnnamedStatements):
    """A connection that fails when the driver must look up a type of a statement."""

    async def _introspect_types(self, oids: Iterable[int], timeout: float | None) -> None:
        raise AssertionError(f"the driver asks about the types {[*oids]} within {timeout} s")


@pytest.fixture(autouse=True)
def _types_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "UnnamedStatements", _KnownTypes)
