"""Servers in processes of their own, as a user runs them."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.databases import Databases
from tests.processes import ServerProcess, running


@pytest.fixture
async def engine() -> AsyncIterator[ServerProcess]:
    """Yield an engine in a process of its own."""
    async with running("engine_server", "--listen", "127.0.0.1:0") as server:
        yield server


@pytest.fixture
async def service_database_url(databases: Databases) -> AsyncIterator[str]:
    """Yield the URL of an empty database for the service's own tables."""
    async with databases.taken() as url:
        yield url


@pytest.fixture
async def service(
    engine: ServerProcess, service_database_url: str, tmp_path: Path
) -> AsyncIterator[ServerProcess]:
    """Yield a service in a process of its own that calls the engine."""
    async with running(
        "service_server",
        *("--listen", "127.0.0.1:0", "--engine", engine.address, "--data-dir", str(tmp_path)),
        environment={"PIPESYNC_DATABASE_URL": service_database_url},
    ) as server:
        yield server
