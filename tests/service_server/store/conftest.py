"""Fixtures of the tests of the store."""

from collections.abc import AsyncIterator

import pytest

from tests.pgbouncer import PgBouncer, pgbouncer
from tests.postgres import PostgresCluster


@pytest.fixture
async def pooler(postgres_cluster: PostgresCluster, database_url: str) -> AsyncIterator[PgBouncer]:
    """Return a pooler in transaction mode."""
    async with pgbouncer(postgres_cluster, database_url) as one:
        yield one
