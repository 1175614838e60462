"""Fixtures of the Postgres destination's tests."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable

import asyncpg
import pytest

from engine_server.connectors.postgres import connect
from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.flow import Flow
from pipesync.v1.message_pb2 import Message
from pipesync_postgres.unnamed_statements import UnnamedStatements


@pytest.fixture
def config(database_url: str) -> PostgresConfig:
    """Writes to the schema "stripe" of an empty database."""
    return PostgresConfig.model_validate({"url": database_url})


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """Another session of the same database, to look from."""
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


@pytest.fixture
def tables_made(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Set once a write has its tables: its source is at work while it looks at them."""
    made = asyncio.Event()
    passed_on = Flow.passed_on

    def noted(flow: Flow) -> AsyncGenerator[Message, None]:
        made.set()
        return passed_on(flow)

    monkeypatch.setattr(Flow, "passed_on", noted)
    return made


class _KnownTypes(UnnamedStatements):
    """A connection whose statements have no type that the driver must ask Postgres about."""

    async def _introspect_types(self, oids: Iterable[int], timeout: float | None) -> None:
        raise AssertionError(f"the driver asks about the types {[*oids]} within {timeout} s")


@pytest.fixture(autouse=True)
def _types_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "UnnamedStatements", _KnownTypes)
