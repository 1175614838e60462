"""Between us and Postgres may stand a pooler that shares sessions transaction by transaction."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import asyncpg
import pytest
import structlog

from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.destination import PostgresDestination
from engine_server.connectors.protocols import RetryResult
from engine_server.errors import ConnectionFailed
from pipesync.v1.message_pb2 import Message
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


@pytest.mark.parametrize(
    ("mode", "settings", "parameters", "reason"),
    [
        ("statement", {}, "", "statement pooling mode .*: set the pooler's pool_mode"),
        ("transaction", {}, "&options=-c%20work_mem%3D8MB", "parameter: options .*: take it out"),
        ("transaction", {"disable_pqexec": 1}, "", "PQexec .*: set the pooler's disable_pqexec"),
    ],
)
async def test_what_a_pooler_refuses_for_good_is_not_waited_out(
    mode: Mode,
    settings: dict[str, int],
    parameters: str,
    reason: str,
    postgres_cluster: PostgresCluster,
    database_url: str,
) -> None:
    async with pgbouncer(postgres_cluster, database_url, mode, **settings) as pooler:
        config = PostgresConfig.model_validate({"url": pooler.url + parameters})
        with (
            pytest.raises(ConnectionFailed, match=reason),
            structlog.testing.capture_logs() as logs,
        ):
            await write(config, [stream()], [records("customers", customer(1))])
        assert not [entry for entry in logs if entry["event"] == "transaction_retried"]
        [checked] = [message async for message in PostgresDestination().check(config, [stream()])]
        assert re.search(reason, checked.connection_status.message)


async def disturbed(
    disturbances: Sequence[Callable[[], Awaitable[None]]],
) -> AsyncIterator[Message]:
    """Pages one after the other, with a disturbance after each."""
    for number, disturb in enumerate(disturbances):
        yield records("customers", customer(2 * number), customer(2 * number + 1))
        yield checkpoint("customers", f"{number}")
        await disturb()


async def test_restarts_and_limits_of_a_pooler_are_got_over_in_the_middle_of_a_write(
    postgres_cluster: PostgresCluster, database_url: str, database: asyncpg.Connection
) -> None:
    async with pgbouncer(
        postgres_cluster, database_url, query_wait_timeout=1, max_client_conn=30
    ) as pooler:
        config = PostgresConfig.model_validate({"url": pooler.url, "batch_size": 2})
        await logs(PostgresDestination().setup(config, [stream()]))
        call_later = asyncio.get_running_loop().call_later

        async def restart() -> None:
            await pooler.kill()
            await pooler.start()

        async def reconnect() -> None:
            await pooler.command("RECONNECT")

        async def pause() -> None:
            pooler.pause()
            call_later(0.5, pooler.resume)

        async def take_all_sessions() -> None:
            for _ in range(3):
                other = await asyncpg.connect(pooler.url, statement_cache_size=0)
                await other.execute("BEGIN")
                # Until a write has waited for longer than the pooler lets it.
                call_later(1.5, other.terminate)

        async def nothing() -> None:
            pass

        disturbances = [restart, reconnect, pause, take_all_sessions, restart, nothing]
        written = await write(config, [stream()], disturbed(disturbances))
    checkpoints = [
        message.source_state.data for message in written if message.HasField("source_state")
    ]
    assert checkpoints == [f"{number}" for number in range(len(disturbances))]
    rows = await database.fetchval("SELECT count(*) FROM stripe.customers")
    assert rows == 2 * len(disturbances)
