"""Translation of the database's errors."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
import structlog

from pipesync_postgres import sqlstates
from pipesync_postgres.sqlstates import Verdict
from service_server.errors import StoreUnavailable
from service_server.store.database import Database
from tests.engine_server.connectors.postgres.proxy import Proxy
from tests.pipesync_postgres.test_sqlstates import KNOWN
from tests.postgres import PostgresCluster

# RAISE cannot raise these classes, which are no errors: success, warnings and no data.
RAISABLE = [state for state in KNOWN if state[:2] not in {"00", "01", "02"}]
BROKEN = sorted(
    state for state in RAISABLE if sqlstates.verdict(state) is not Verdict.ROW and state != "XX000"
)
READ_ONLY = "default_transaction_read_only"


async def _raise(database: Database, sqlstate: str) -> None:
    async with database.transaction() as connection:
        await connection.execute(
            f"DO $$ BEGIN RAISE 'of \"secret\"' USING ERRCODE = '{sqlstate}'; END $$"
        )


async def test_every_sqlstate_that_does_not_concern_a_row_makes_the_store_unavailable(
    database: Database,
) -> None:
    for state in [*BROKEN, "U0001"]:
        with pytest.raises(StoreUnavailable, match=state) as raised:
            await _raise(database, state)
        assert "secret" not in raised.value.message
        async with database.connection() as connection:
            assert await connection.fetchval("SELECT 1") == 1


@pytest.mark.parametrize("sqlstate", ["22P02", "23505", "P0001", "54000"])
async def test_a_row_that_postgres_refuses_is_a_defect(database: Database, sqlstate: str) -> None:
    with pytest.raises(asyncpg.PostgresError):
        await _raise(database, sqlstate)


@pytest.mark.parametrize(("sqlstate", "is_logged"), [("53100", True), ("40001", False)])
async def test_the_log_has_the_server_s_message_of_a_fault_that_does_not_pass(
    database: Database, sqlstate: str, is_logged: bool
) -> None:
    with structlog.testing.capture_logs() as captured, pytest.raises(StoreUnavailable):
        await _raise(database, sqlstate)
    logged = [entry for entry in captured if entry["event"] == "database_refused"]
    assert [entry["sqlstate"] for entry in logged] == ([sqlstate] if is_logged else [])
    assert [entry["error"] for entry in logged] == (['of "..."'] if is_logged else [])


@pytest.mark.parametrize("sqlstate", ["53100", "40001", "08P01"])
async def test_the_server_s_message_is_logged_but_not_sent_to_the_caller(
    database: Database, sqlstate: str
) -> None:
    with pytest.raises(StoreUnavailable) as raised:
        await _raise(database, sqlstate)
    assert raised.value.database_message == 'of "..."'
    assert "of " not in raised.value.message


@pytest.mark.parametrize(("sent", "kept"), [(60_000, 2_000), (1_000_000, 205)])
async def test_a_long_message_of_the_server_is_cut(
    database: Database, sent: int, kept: int
) -> None:
    message = f"repeat('x', {sent})"
    with pytest.raises(StoreUnavailable) as caught:
        async with database.connection() as connection:
            await connection.execute(
                f"DO $$ BEGIN RAISE lock_not_available USING MESSAGE = {message}; END $$"
            )
    assert len(caught.value.database_message) == kept


async def test_a_missing_table_makes_the_store_unavailable(database: Database) -> None:
    with pytest.raises(StoreUnavailable, match="42P01"):
        async with database.connection() as connection:
            await connection.fetch("TABLE pipesync.no_such_table")


@pytest.fixture
async def admin(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


async def _backend(database: Database) -> int:
    async with database.connection() as connection:
        pid: int = await connection.fetchval("SELECT pg_backend_pid()")
        return pid


async def _write(database: Database) -> None:
    async with database.transaction() as connection:
        await connection.execute("CREATE TABLE pipesync.written ()")


async def test_connections_to_a_server_that_became_read_only_are_dropped(
    database: Database, admin: asyncpg.Connection
) -> None:
    name = await admin.fetchval("SELECT current_database()")
    await admin.execute(f'ALTER DATABASE "{name}" SET {READ_ONLY} = on')
    await admin.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    with pytest.raises(StoreUnavailable):
        # The first call may only notice that its session was terminated.
        await _write(database)
    with pytest.raises(StoreUnavailable, match="25006"):
        await _write(database)
    await admin.execute(f'ALTER DATABASE "{name}" RESET {READ_ONLY}')
    # All sessions that began before stay read-only.
    await _write(database)


async def test_a_session_that_became_read_only_is_not_reused_even_for_reads(
    database_url: str, admin: asyncpg.Connection
) -> None:
    async with Database.open(database_url, max_connections=1) as database:
        first = await _backend(database)
        assert await _backend(database) == first
        async with database.connection() as connection:
            await connection.execute(f"SET {READ_ONLY} = on")
        assert await _backend(database) != first


async def test_a_lost_connection_expires_the_idle_ones(database: Database) -> None:
    async with database.connection() as one, database.connection() as other:
        pids = {await each.fetchval("SELECT pg_backend_pid()") for each in (one, other)}
    assert len(pids) == 2
    with pytest.raises(StoreUnavailable, match="57P01"):
        await _raise(database, "57P01")
    async with database.connection() as one, database.connection() as other:
        assert pids.isdisjoint(
            {await each.fetchval("SELECT pg_backend_pid()") for each in (one, other)}
        )


async def test_a_changed_password_makes_the_store_unavailable_until_it_is_correct(
    postgres_cluster: PostgresCluster, database_url: str, admin: asyncpg.Connection
) -> None:
    role = f"store_{await admin.fetchval('SELECT current_database()')}"[:60]
    await admin.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'right'")
    url = database_url.replace("postgres@", f"{role}:right@")
    try:
        async with postgres_cluster.asking_for_passwords(role), Database.open(url) as database:
            await admin.execute(f"ALTER ROLE {role} PASSWORD 'other'")
            await admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1", role
            )
            with pytest.raises(StoreUnavailable):
                # The first call may only notice that its session was terminated.
                await _backend(database)
            with pytest.raises(StoreUnavailable, match="28P01"):
                await _backend(database)
            await admin.execute(f"ALTER ROLE {role} PASSWORD 'right'")
            assert await _backend(database)
    finally:
        await admin.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


async def test_a_conflict_between_two_services_makes_the_store_unavailable_to_one(
    database: Database,
) -> None:
    async with database.transaction() as connection:
        await connection.execute("CREATE TABLE pipesync.one (n int)")
        await connection.execute("INSERT INTO pipesync.one VALUES (1), (2)")
    met = asyncio.Barrier(2)

    async def change(*numbers: int) -> None:
        async with database.transaction() as connection:
            for number in numbers:
                await connection.execute("UPDATE pipesync.one SET n = n WHERE n = $1", number)
                if number == numbers[0]:
                    await met.wait()

    outcomes = await asyncio.gather(change(1, 2), change(2, 1), return_exceptions=True)
    [loser] = [outcome for outcome in outcomes if outcome is not None]
    assert isinstance(loser, StoreUnavailable)
    assert "40P01" in loser.message


async def test_transactions_are_read_committed_even_if_the_database_defaults_to_serializable(
    database: Database, admin: asyncpg.Connection
) -> None:
    name = await admin.fetchval("SELECT current_database()")
    setting = "default_transaction_isolation = 'serializable'"
    await admin.execute(f'ALTER DATABASE "{name}" SET {setting}')
    async with Database.open(database.url) as later, later.transaction() as connection:
        assert await connection.fetchval("SHOW transaction_isolation") == "read committed"


async def test_an_unreachable_proxy_makes_the_store_unavailable(database_url: str) -> None:
    async with Proxy(database_url) as proxy, Database.open(proxy.url) as database:
        await _backend(database)
        await proxy.close()
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                await _backend(database)
        await proxy.open()
        assert await _backend(database)
