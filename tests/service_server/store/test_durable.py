"""Durability of acknowledged writes under every setting of the role."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import pytest

from pipesync.v1.pipeline_service_pb2 import SYNC_POLICY_CONTINUOUS
from pipesync.v1.state_pb2 import SyncState
from service_server.store import inbox, leases, lifecycles, pipelines, runs, states
from service_server.store.database import Connection, Database
from service_server.store.inbox import InsertResult, NewEvent
from service_server.store.leases import LeaseKind
from service_server.store.migrate import migrate
from service_server.webhooks.group_commit import GroupCommit
from tests.postgres import PostgresCluster
from tests.service_server.store.test_pipelines import stored
from tests.service_server.store.test_runs import NOON, run

SETTINGS = [
    ("off", "local"),
    ("local", "local"),
    ("remote_write", "remote_write"),
    ("on", "on"),
    ("remote_apply", "remote_apply"),
]


def _event(number: int, pipeline_id: str = "first", etag: str = "") -> NewEvent:
    return NewEvent(
        pipeline_id=pipeline_id,
        etag=etag,
        event_id=f"evt_{number}",
        event_type="customer.updated",
        create_time=datetime(2026, 1, 1, tzinfo=UTC),
        body=b"{}",
    )


@pytest.fixture(params=SETTINGS, ids=[setting for setting, _ in SETTINGS])
async def effective(request: pytest.FixtureRequest, database_url: str) -> str:
    """Return the setting that commits have to use under the database's setting."""
    setting, effective = request.param
    admin = await asyncpg.connect(database_url)
    name = await admin.fetchval("SELECT current_database()")
    await admin.execute(f'ALTER DATABASE "{name}" SET synchronous_commit = {setting}')
    await admin.close()
    return str(effective)


@pytest.fixture
async def recording(effective: str, database_url: str) -> AsyncIterator[Database]:
    """Return a database whose tables record the setting of each transaction that changes them."""
    async with Database.open(database_url) as database:
        await migrate(database)
        async with database.transaction() as connection:
            await connection.execute(
                """
                CREATE TABLE public.settings (name text, setting text);
                CREATE FUNCTION public.note() RETURNS trigger LANGUAGE plpgsql AS $$
                BEGIN
                    INSERT INTO public.settings
                        VALUES (TG_TABLE_NAME, current_setting('synchronous_commit'));
                    RETURN NULL;
                END $$;
                """
            )
            for table in await connection.fetch(
                "SELECT relname FROM pg_class WHERE relkind = 'r' "
                "AND relnamespace = 'pipesync'::regnamespace"
            ):
                await connection.execute(
                    f"CREATE CONSTRAINT TRIGGER notes AFTER INSERT OR UPDATE ON "
                    f'pipesync."{table[0]}" DEFERRABLE INITIALLY DEFERRED '
                    "FOR EACH ROW EXECUTE FUNCTION public.note()"
                )
        yield database


async def _recorded(database: Database) -> set[tuple[str, str]]:
    async with database.transaction() as connection:
        rows = await connection.fetch("DELETE FROM public.settings RETURNING name, setting")
    return {(row["name"], row["setting"]) for row in rows}


async def _etag(connection: Connection) -> str:
    etag: str = await connection.fetchval("SELECT etag FROM pipesync.pipelines WHERE id = 'first'")
    return etag


async def test_acknowledged_writes_and_checkpoints_commit_durably(
    recording: Database, effective: str
) -> None:
    continuous = stored("first")
    continuous.pipeline.sync_policy = SYNC_POLICY_CONTINUOUS
    async with recording.transaction() as connection:
        await pipelines.insert(connection, continuous)
        await lifecycles.start(connection, "first")
    assert await _recorded(recording) == {("pipelines", effective), ("lifecycles", effective)}
    async with recording.connection() as connection:
        etag = await _etag(connection)
        token = await leases.acquire(connection, "first", "test", timedelta(minutes=1))
    assert token is not None
    assert await _recorded(recording) == {("leases", effective)}
    async with recording.connection() as connection:
        assert await leases.renew(connection, "first", token, timedelta(minutes=2))
        await leases.release(connection, "first", token)
    assert await _recorded(recording) == {("leases", effective)}
    async with recording.connection() as connection:
        token = await leases.acquire(
            connection, "first", "test", timedelta(minutes=1), kind=LeaseKind.EVENTS
        )
        assert token is not None
        assert await leases.renew(
            connection, "first", token, timedelta(minutes=2), kind=LeaseKind.EVENTS
        )
    assert await _recorded(recording) == {("applier_leases", effective)}
    async with recording.connection() as connection:
        for is_torn_down in (True, False):
            await pipelines.set_torn_down(connection, "first", is_torn_down=is_torn_down)
        # The updates above changed the etag.
        etag = await _etag(connection)
    assert await _recorded(recording) == {("pipelines", effective)}
    # A due pipeline would not be woken.
    async with recording.transaction() as connection:
        await lifecycles.claim(connection, 1, timedelta(hours=1))
    assert await _recorded(recording) == {("lifecycles", effective)}
    async with GroupCommit.open(recording) as group_commit:
        assert await group_commit.put(_event(1, etag=etag)) is InsertResult.NEW
    # The new event has woken the pipeline.
    assert await _recorded(recording) == {("webhook_events", effective), ("lifecycles", effective)}
    async with recording.transaction() as connection:
        await states.put(connection, "first", SyncState())
        await runs.put(connection, run("first-run", NOON))
        await inbox.mark_applied(connection, "first", ["evt_1"])
    assert await _recorded(recording) == {
        ("states", effective),
        ("runs", effective),
        ("webhook_events", effective),
    }


async def test_a_session_keeps_its_setting(recording: Database, effective: str) -> None:
    async with recording.connection() as connection:
        before = await connection.fetchval("SHOW synchronous_commit")
        await leases.acquire(connection, "none", "test", timedelta(minutes=1))
        assert await connection.fetchval("SHOW synchronous_commit") == before


@pytest.fixture
def cluster() -> Iterator[PostgresCluster]:
    """Return a separate server with durable commits."""
    with tempfile.TemporaryDirectory(prefix="pipesync-tests-", ignore_cleanup_errors=True) as home:
        cluster = PostgresCluster(Path(home) / "postgres")
        yield cluster
        cluster.stop()


async def test_acknowledged_writes_survive_kill_9_of_a_server_with_asynchronous_commits(
    cluster: PostgresCluster,
) -> None:
    admin = await asyncpg.connect(cluster.url("postgres"))
    await admin.execute("CREATE ROLE keeper LOGIN; GRANT CREATE ON DATABASE postgres TO keeper")
    await admin.execute("ALTER ROLE keeper SET synchronous_commit = off")
    # Only commits that wait for the disk flush the log.
    await admin.execute("ALTER SYSTEM SET wal_writer_delay = '10s'")
    await admin.execute("SELECT pg_reload_conf()")
    await admin.close()
    url = cluster.url("postgres").replace("postgres@", "keeper@")
    async with Database.open(url) as database:
        await migrate(database)
        async with database.transaction() as connection:
            await pipelines.insert(connection, stored("first"))
            etag = await _etag(connection)
            await states.put(connection, "first", SyncState(destination="old"))
        async with GroupCommit.open(database) as group_commit:
            for number in range(10):
                assert await group_commit.put(_event(number, etag=etag)) is InsertResult.NEW
            async with database.transaction() as connection:
                await states.put(connection, "first", SyncState(destination="new"))
            for number in range(10, 20):
                assert await group_commit.put(_event(number, etag=etag)) is InsertResult.NEW
        await asyncio.to_thread(cluster.kill)
    await asyncio.to_thread(cluster.start_again)
    async with (
        Database.open(cluster.url("postgres")) as database,
        database.connection() as connection,
    ):
        count = await connection.fetchval("SELECT count(*) FROM pipesync.webhook_events")
        state = await states.get(connection, "first")
    assert count == 20
    assert state == SyncState(destination="new")
