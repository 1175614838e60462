"""Fixtures of the Postgres destination's tests."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from engine_server.connectors.postgres.config import PostgresConfig


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
