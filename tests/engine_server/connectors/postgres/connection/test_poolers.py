"""Poolers that share sessions by transaction between the engine and Postgres."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from unittest.mock import AsyncMock

import asyncpg
import pytest
import structlog

from engine_server.connectors.postgres import destination as destination_module
from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.destination import PostgresDestination
from engine_server.connectors.protocols import RetryResult
from engine_server.errors import ConnectionFailed
from pipesync.v1.message_pb2 import Message
from pipesync.v1.progress_pb2 import ConnectionStatus
from pipesync_postgres.read_only import end_read_only_session
from tests.engine_server.connectors.postgres.builders import customer, logs, records, stream, write
from tests.engine_server.connectors.postgres.pooler import TransactionPooler
from tests.engine_server.connectors.postgres.schemas import rejected_rows
from tests.messages import checkpoint
from tests.pgbouncer import Mode, leave_read_only_sessions, pgbouncer
from tests.postgres import PostgresCluster

PAGES = 20


async def _everything_works(url: str, database: asyncpg.Connection) -> None:
    """Run a check, setup, concurrent writes, a refused record, and teardown."""
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
async def test_permanent_refusals_of_a_pooler_are_not_retried(
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
    """Yield pages, with a disturbance after each."""
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
                # Until a write has waited for longer than the pooler allows.
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


@pytest.mark.parametrize("mode", ["session", "transaction"])
async def test_sessions_that_a_pooler_keeps_from_a_read_only_spell_stop_no_write(
    mode: Mode, postgres_cluster: PostgresCluster, database_url: str, database: asyncpg.Connection
) -> None:
    page = [records("customers", customer(1)), checkpoint("customers", "1")]
    async with pgbouncer(postgres_cluster, database_url, mode, default_pool_size=20) as pooler:
        config = PostgresConfig.model_validate({"url": pooler.url})
        await leave_read_only_sessions(pooler, database_url, count=20)
        with structlog.testing.capture_logs() as captured:
            assert await write(config, [stream()], page) == page
    assert await database.fetchval("SELECT count(*) FROM stripe.customers") == 1
    errors = [entry["error"] for entry in captured if entry["event"] == "transaction_retried"]
    assert 1 <= len(errors) <= 2
    assert all("25006" in error for error in errors)


async def test_a_setup_after_a_read_only_spell_is_retried_once_or_twice(
    postgres_cluster: PostgresCluster, database_url: str
) -> None:
    async with pgbouncer(postgres_cluster, database_url, default_pool_size=20) as pooler:
        config = PostgresConfig.model_validate({"url": pooler.url})
        await leave_read_only_sessions(pooler, database_url, count=16)
        with structlog.testing.capture_logs() as captured:
            assert await logs(PostgresDestination().setup(config, [stream()]))
    delays = [entry["delay_s"] for entry in captured if entry["event"] == "transaction_retried"]
    assert 1 <= len(delays) <= 2
    assert sum(delays) < 0.5


@pytest.mark.parametrize("parameters", ["", "&target_session_attrs=read-write"])
async def test_a_check_passes_over_the_sessions_of_a_read_only_spell(
    parameters: str, postgres_cluster: PostgresCluster, database_url: str
) -> None:
    async with pgbouncer(postgres_cluster, database_url, default_pool_size=3) as pooler:
        config = PostgresConfig.model_validate({"url": pooler.url + parameters})
        await leave_read_only_sessions(pooler, database_url, count=3)
        [checked] = [one async for one in PostgresDestination().check(config, [stream()])]
    assert checked.connection_status.status == ConnectionStatus.STATUS_SUCCEEDED


async def test_a_database_that_stays_read_only_fails_its_check_after_a_few_sessions(
    postgres_cluster: PostgresCluster,
    database_url: str,
    database: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended = AsyncMock(side_effect=end_read_only_session)
    monkeypatch.setattr(destination_module, "end_read_only_session", ended)
    name = await database.fetchval("SELECT current_database()")
    await database.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    async with pgbouncer(postgres_cluster, database_url, default_pool_size=20) as pooler:
        config = PostgresConfig.model_validate({"url": pooler.url})
        [checked] = [one async for one in PostgresDestination().check(config, [stream()])]
    assert "is read-only" in checked.connection_status.message
    assert 1 <= ended.await_count <= 4
