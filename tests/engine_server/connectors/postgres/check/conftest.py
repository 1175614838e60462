"""Fixtures of the tests of checks."""

from collections.abc import AsyncIterator

import asyncpg
import pytest


@pytest.fixture
async def role(database: asyncpg.Connection) -> AsyncIterator[str]:
    """A role for syncs, which ``granted`` gives its privileges."""
    name = f"writer_{await database.fetchval('SELECT current_database()')}"[:60]
    await database.execute(f"CREATE ROLE {name} LOGIN")
    yield name
    await database.execute(f"DROP OWNED BY {name} CASCADE; DROP ROLE {name}")
