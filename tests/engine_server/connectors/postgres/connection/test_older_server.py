"""A Postgres that has no virtual columns yet."""

import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest

from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.destination import PostgresDestination
from engine_server.errors import ConnectorError
from tests.engine_server.connectors.postgres.builders import customer, records, stream, write
from tests.engine_server.connectors.postgres.schemas import columns_of, set_up, tear_down
from tests.postgres import PostgresCluster


@pytest.fixture(scope="module")
def older_cluster() -> Iterator[PostgresCluster]:
    with tempfile.TemporaryDirectory(prefix="pipesync-tests-", ignore_cleanup_errors=True) as home:
        cluster = PostgresCluster(Path(home) / "postgres", version=16)
        yield cluster
        cluster.stop()


@pytest.fixture
async def database_url(older_cluster: PostgresCluster) -> AsyncIterator[str]:
    """The URL of an empty database of the older server."""
    await older_cluster.trade_durability_for_speed()
    name = await older_cluster.create_database()
    yield older_cluster.url(name)
    await older_cluster.drop_database(name)


async def test_columns_are_stored_by_default(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    await set_up(config, stream(fields=["name"]))
    await write(config, [stream()], [records("customers", customer(1, name="Ada", balance=5))])
    columns = await columns_of(database, "stripe.customers")
    assert (columns["name"], columns["balance"]) == ("text s", "bigint s")
    row = await database.fetchrow("SELECT name, balance FROM stripe.customers")
    assert row is not None
    assert tuple(row) == ("Ada", 5)
    assert await tear_down(config, stream()) == [
        'dropped table "stripe"."customers"',
        'dropped schema "stripe"',
    ]


async def test_virtual_columns_are_refused_with_the_remedy(database_url: str) -> None:
    config = PostgresConfig.model_validate({"url": database_url, "columns": "virtual"})
    said = "needs Postgres 18 or newer, and this is 16: choose stored"
    with pytest.raises(ConnectorError, match=said):
        await set_up(config, stream())
    [status] = [message async for message in PostgresDestination().check(config, [stream()])]
    assert said in status.connection_status.message
