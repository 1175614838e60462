"""Fixtures that every room's tests share."""

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.postgres import PostgresCluster


@pytest.fixture(scope="session")
def postgres_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresCluster]:
    """The run's Postgres: a missing one is an error, never a skip."""
    cluster = PostgresCluster(tmp_path_factory.mktemp("postgres") / "data")
    yield cluster
    cluster.stop()


@pytest.fixture
async def database_url(postgres_cluster: PostgresCluster) -> AsyncIterator[str]:
    """The URL of an empty database that is dropped after the test."""
    await postgres_cluster.trade_durability_for_speed()
    name = await postgres_cluster.create_database()
    yield postgres_cluster.url(name)
    await postgres_cluster.drop_database(name)
