"""The product as a user runs it: its servers in processes of their own."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.leaks import leaks
from tests.postgres import PostgresCluster
from tests.processes import ServerProcess, running


@pytest.fixture
async def engine() -> AsyncIterator[ServerProcess]:
    """An engine in a process of its own."""
    async with running("engine_server", "--listen", "127.0.0.1:0") as server:
        yield server


@pytest.fixture
async def service_database_url(postgres_cluster: PostgresCluster) -> AsyncIterator[str]:
    """The URL of an empty database for the service's own tables."""
    name = await postgres_cluster.create_database()
    yield postgres_cluster.url(name)
    await leaks.search_database(postgres_cluster.url(name))
    await postgres_cluster.drop_database(name)


@pytest.fixture
async def service(
    engine: ServerProcess, service_database_url: str, tmp_path: Path
) -> AsyncIterator[ServerProcess]:
    """A service in a process of its own, on the engine."""
    async with running(
        "service_server",
        *("--listen", "127.0.0.1:0", "--engine", engine.address, "--data-dir", str(tmp_path)),
        environment={"PIPESYNC_DATABASE_URL": service_database_url},
    ) as server:
        yield server
