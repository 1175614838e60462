"""What the service acknowledges outlives a crash of its Postgres, whatever the role's settings."""

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
from service_server.store.inbox import NewEvent, Stored
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
    """What is expected of commits where the database has another setting."""
    setting, effective = request.param
    admin = await asyncpg.connect(database_url)
    name = await admin.fetchval("SELECT current_database()")
    await admin.execute(f'ALTER DATABASE "{name}" SET synchronous_commit = {setting}')
    await admin.close()
    return str(effective)


@pytest.fixture
async def noting(effective: str, database_url: str) -> AsyncIterator[Database]:
    """Every table notes the setting with which the transaction that changes it commits."""
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


async def _noted(database: Database) -> set[tuple[str, str]]:
    async with database.transaction() as connection:
        rows = await connection.fetch("DELETE FROM public.settings RETURNING name, setting")
    return {(row["name"], row["setting"]) for row in rows}


async def _etag(connection: Connection) -> str:
    etag: str = await connection.fetchval("SELECT etag FROM pipesync.pipelines WHERE id = 'first'")
    return etag


async def test_what_moves_a_checkpoint_or_is_acknowledged_commits_durably(
    noting: Database, effective: str
) -> None:
    continuous = stored("first")
    continuous.pipeline.sync_policy = SYNC_POLICY_CONTINUOUS
    async with noting.transaction() as connection:
        await pipelines.insert(connection, continuous)
        await lifecycles.start(connection, "first")
    assert await _noted(noting) == {("pipelines", effective), ("lifecycles", effective)}
    async with noting.connection() as connection:
        etag = await _etag(connection)
        token = await leases.acquire(connection, "first", "test", timedelta(minutes=1))
    assert token is not None
    assert await _noted(noting) == {("leases", effective)}
    async with noting.connection() as connection:
        assert await leases.renew(connection, "first", token, timedelta(minutes=2))
        await leases.release(connection, "first", token)
    assert await _noted(noting) == {("leases", effective)}
    async with noting.connection() as connection:
        token = await leases.acquire(
            connection, "first", "test", timedelta(minutes=1), kind=LeaseKind.EVENTS
        )
        assert token is not None
        assert await leases.renew(
            connection, "first", token, timedelta(minutes=2), kind=LeaseKind.EVENTS
        )
    assert await _noted(noting) == {("applier_leases", effective)}
    async with noting.connection() as connection:
        for is_torn_down in (True, False):
            await pipelines.set_torn_down(connection, "first", is_torn_down=is_torn_down)
        # Each change of a pipeline has another.
        etag = await _etag(connection)
    assert await _noted(noting) == {("pipelines", effective)}
    # One that is due is not woken.
    async with noting.transaction() as connection:
        await lifecycles.claim(connection, 1, timedelta(hours=1))
    assert await _noted(noting) == {("lifecycles", effective)}
    async with GroupCommit.open(noting) as group_commit:
        assert await group_commit.put(_event(1, etag=etag)) is Stored.NEW
    # The pipeline is woken for it.
    assert await _noted(noting) == {("webhook_events", effective), ("lifecycles", effective)}
    async with noting.transaction() as connection:
        await states.put(connection, "first", SyncState())
        await runs.put(connection, run("first-run", NOON))
        await inbox.mark_applied(connection, "first", ["evt_1"])
    assert await _noted(noting) == {
        ("states", effective),
        ("runs", effective),
        ("webhook_events", effective),
    }


async def test_a_session_keeps_its_setting(noting: Database, effective: str) -> None:
    async with noting.connection() as connection:
        before = await connection.fetchval("SHOW synchronous_commit")
        await leases.acquire(connection, "none", "test", timedelta(minutes=1))
        assert await connection.fetchval("SHOW synchronous_commit") == before


@pytest.fixture
def cluster() -> Iterator[PostgresCluster]:
    """A server of its own that waits for the disk where it is told to."""
    with tempfile.TemporaryDirectory(prefix="pipesync-tests-", ignore_cleanup_errors=True) as home:
        cluster = PostgresCluster(Path(home) / "postgres")
        yield cluster
        cluster.stop()


async def test_what_is_acknowledged_outlives_kill_9_of_a_server_that_need_not_wait_for_the_disk(
    cluster: PostgresCluster,
) -> None:
    admin = await asyncpg.connect(cluster.url("postgres"))
    await admin.execute("CREATE ROLE keeper LOGIN; GRANT CREATE ON DATABASE postgres TO keeper")
    await admin.execute("ALTER ROLE keeper SET synchronous_commit = off")
    # Nothing is written out but what a commit waits for.
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
                assert await group_commit.put(_event(number, etag=etag)) is Stored.NEW
            async with database.transaction() as connection:
                await states.put(connection, "first", SyncState(destination="new"))
            for number in range(10, 20):
                assert await group_commit.put(_event(number, etag=etag)) is Stored.NEW
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
