"""Fixtures of both servers, for all tests of a module that one process runs.

They live no longer: the engine keeps its connections open while they run, which other tests would
see.
"""

import asyncio
from collections.abc import Iterator

import pytest

from tests.fuzz.ground import Ground
from tests.fuzz.ground import ground as new_ground
from tests.leaks import leaks
from tests.postgres import PostgresCluster


@pytest.fixture(scope="module")
def shared_ground(
    postgres_cluster: PostgresCluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Ground]:
    asyncio.run(postgres_cluster.trade_durability_for_speed())
    with new_ground(postgres_cluster, tmp_path_factory.mktemp("service")) as ground:
        yield ground


@pytest.fixture
def ground(shared_ground: Ground) -> Iterator[Ground]:
    # Drop log lines of the test before and of the time between.
    shared_ground.heard.take()
    yield shared_ground
    shared_ground.servers.run(leaks.search_database(shared_ground.store_url))
