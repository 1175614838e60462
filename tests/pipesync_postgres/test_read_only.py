"""Read-only sessions that a pooler keeps are ended."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from pipesync_postgres.hosts import Connection, connect_to_any
from pipesync_postgres.read_only import (
    Ending,
    end_read_only_session,
    end_read_only_sessions,
    is_usable,
    reports_read_only,
)
from pipesync_postgres.url import Host
from tests.pgbouncer import PgBouncer, leave_read_only_sessions, pgbouncer
from tests.postgres import PostgresCluster


@pytest.fixture
async def pooler(postgres_cluster: PostgresCluster, database_url: str) -> AsyncIterator[PgBouncer]:
    """Yield a pooler in transaction mode with one session, which is read-only."""
    async with pgbouncer(postgres_cluster, database_url, default_pool_size=1) as one:
        await leave_read_only_sessions(one, database_url)
        yield one


async def _connect(url: str) -> Connection:
    return await asyncpg.connect(url, statement_cache_size=0)


async def test_the_next_session_of_a_pooler_is_writable(pooler: PgBouncer) -> None:
    connection = await _connect(pooler.url)
    with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
        await connection.execute("CREATE TABLE written ()")
    assert await end_read_only_session(connection) is Ending.ENDED
    connection = await _connect(pooler.url)
    await connection.execute("CREATE TABLE written ()")
    await connection.close()


async def test_a_session_in_the_middle_of_a_failed_transaction_is_ended(pooler: PgBouncer) -> None:
    connection = await _connect(pooler.url)
    await connection.execute("BEGIN")
    with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
        await connection.execute("CREATE TABLE written ()")
    assert await end_read_only_session(connection) is Ending.ENDED


async def test_a_writable_session_is_kept(pooler: PgBouncer, database_url: str) -> None:
    await end_read_only_session(await _connect(pooler.url))
    connection = await _connect(pooler.url)
    pid = await connection.fetchval("SELECT pg_backend_pid()")
    # The pooler still reports the settings of the first session.
    assert reports_read_only(connection)
    assert await is_usable(connection)
    assert await end_read_only_session(connection) is Ending.WRITABLE
    assert await connection.fetchval("SELECT pg_backend_pid()") == pid
    await connection.close()


async def test_a_lost_connection_is_not_usable(database_url: str) -> None:
    connection = await _connect(database_url)
    await connection.close()
    assert await end_read_only_session(connection) is Ending.LOST


async def _end(url: str, outcomes: list[Ending]) -> Ending:
    """End the read-only sessions behind a URL; note the outcome for each session."""

    async def end(age: float) -> Ending:
        connection = await _connect(url)
        ending = await end_read_only_session(connection, age=age)
        outcomes.append(ending)
        await connection.close()
        return ending

    return await end_read_only_sessions(end)


@pytest.mark.parametrize("count", [1, 7])
async def test_all_read_only_sessions_of_a_pooler_are_ended_at_once(
    count: int, postgres_cluster: PostgresCluster, database_url: str
) -> None:
    outcomes: list[Ending] = []
    async with pgbouncer(postgres_cluster, database_url, default_pool_size=count) as pooler:
        await leave_read_only_sessions(pooler, database_url, count=count)
        assert await _end(pooler.url, outcomes) is Ending.WRITABLE
    assert outcomes == [Ending.ENDED] * count + [Ending.WRITABLE]


@pytest.mark.parametrize("pooled", [False, True])
async def test_few_sessions_of_a_database_that_stays_read_only_are_ended(
    pooled: bool, pooler: PgBouncer, database_url: str
) -> None:
    database = await _connect(database_url)
    name = await database.fetchval("SELECT current_database()")
    await database.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    outcomes: list[Ending] = []
    assert await _end(pooler.url if pooled else database_url, outcomes) is Ending.TOO_YOUNG
    assert len(outcomes) <= 4
    await database.close()


async def test_a_pooler_is_chosen_among_hosts_because_its_session_is_ended(
    pooler: PgBouncer,
) -> None:
    asked: list[str] = []

    async def connect(_: Host | None, attribute: str) -> Connection:
        asked.append(attribute)
        return await _connect(pooler.url)

    connection = await connect_to_any([], "read-write", connect)
    assert asked == ["any", "any"]
    await connection.execute("CREATE TABLE written ()")
    await connection.close()
