"""Between us and Postgres may stand a pooler that shares sessions transaction by transaction."""

import asyncio

import asyncpg
import pytest
import structlog

from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.destination import PostgresDestination
from engine_server.connectors.protocols import RetryResult
from pipesync.v1.progress_pb2 import ConnectionStatus
from tests.engine_server.connectors.postgres.builders import (
    checkpoint,
    customer,
    logs,
    records,
    stream,
    write,
)
from tests.engine_server.connectors.postgres.pooler import TransactionPooler
from tests.engine_server.connectors.postgres.schemas import rejected_rows
from tests.pgbouncer import Mode, pgbouncer
from tests.postgres import PostgresCluster

PAGES = 20


async def _everything_works(url: str, database: asyncpg.Connection) -> None:
    """Check, setup, writes side by side, a refused record, and teardown."""
    config = PostgresConfig.model_validate({"url": url, "batch_size": 2})
    streams = [stream("customers"), stream("products")]
    destination = PostgresDestination()
    [checked] = [message async for message in destination.check(config, streams)]
    assert checked.connection_status.status == ConnectionStatus.STATUS_SUCCEEDED
    assert len(await logs(destination.setup(config, streams))) == 3
    pages = [
        message
        for number in range(PAGES)
        for message in (
            records("customers", customer(number)),
            records("products", customer(number)),
            checkpoint("customers", f"{number}"),
        )
    ]
    with structlog.testing.capture_logs() as captured:
        assert (
            await asyncio.gather(*[write(config, streams, pages) for _ in range(3)]) == [pages] * 3
        )
    assert [entry for entry in captured if entry["event"] == "transaction_retried"] == []
    assert await database.fetchval("SELECT count(*) FROM stripe.customers") == PAGES
    large = b'{"id": "cus_large", "_account_id": "acct_1", "n": 1e200000}'
    await write(config, streams, [records("customers", customer(PAGES), large)])
    assert await database.fetchval("SELECT count(*) FROM stripe.customers") == PAGES + 1
    assert [row["record"] for row in await rejected_rows(database)] == [large]
    result = await destination.retry_rejected(config, streams)
    assert result == RetryResult(retried=1, written=0, rejected=1)
    assert len(await logs(destination.teardown(config, streams))) == 3


async def test_nothing_rests_on_a_session_that_outlives_its_transaction(
    database_url: str, database: asyncpg.Connection
) -> None:
    async with TransactionPooler(database_url) as pooler:
        await _everything_works(pooler.url, database)
        assert pooler.changes > PAGES


@pytest.mark.parametrize("mode", ["session", "transaction"])
async def test_a_pgbouncer_will_do(
    mode: Mode, postgres_cluster: PostgresCluster, database_url: str, database: asyncpg.Connection
) -> None:
    # In session mode each pool of the destination keeps as many sessions as it has connections.
    async with pgbouncer(postgres_cluster, database_url, mode, default_pool_size=25) as pooler:
        await _everything_works(pooler.url, database)
