"""A database with the service's tables, and what stands on it."""

from collections.abc import AsyncIterator

import pytest

from service_server.store.database import Database
from service_server.store.migrate import migrate


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with Database.open(database_url) as database:
        await migrate(database)
        yield database
