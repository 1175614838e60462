"""Notifications with and without a pooler before the service's database."""

import asyncio

import pytest
import structlog

from service_server.store import notifications
from service_server.store.database import Database
from service_server.store.notifications import PIPELINES_CHANNEL, Notifications
from tests.pgbouncer import PgBouncer, pgbouncer
from tests.postgres import PostgresCluster


class RecordingListener:
    """Listener that records its payloads."""

    def __init__(self) -> None:
        self.payloads: asyncio.Queue[str | None] = asyncio.Queue()

    def __call__(self, payload: str | None) -> None:
        self.payloads.put_nowait(payload)

    async def until(self, wanted: str | None, times: int = 1) -> None:
        async with asyncio.timeout(30):
            while times:
                times -= await self.payloads.get() == wanted


async def test_without_notifications_listeners_are_called_at_intervals(
    pooler: PgBouncer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifications, "_POLL_INTERVAL", 0.01)
    monkeypatch.setattr(notifications, "_POOLER_INTERVAL", 0.01)
    listener = RecordingListener()
    with structlog.testing.capture_logs() as logs:
        async with Database.open(pooler.url) as database:
            one = Notifications(database)
            one.listen(PIPELINES_CHANNEL, listener)
            async with one.listening():
                await listener.until(None, times=100)
    [warning] = [entry for entry in logs if entry["event"] == "notifications_unavailable"]
    assert "PIPESYNC_DATABASE_SESSION_URL" in warning["remedy"]
    assert not [entry for entry in logs if entry["event"] == "listening_to_database"]


@pytest.mark.parametrize("way", ["direct", "session"])
async def test_notifications_arrive_on_a_connection_without_the_pooler(
    way: str, pooler: PgBouncer, postgres_cluster: PostgresCluster, database_url: str
) -> None:
    listener = RecordingListener()
    async with (
        Database.open(pooler.url) as database,
        pgbouncer(postgres_cluster, database_url, "session") as in_session_mode,
    ):
        one = Notifications(database, database_url if way == "direct" else in_session_mode.url)
        one.listen(PIPELINES_CHANNEL, listener)
        async with one.listening():
            await listener.until(None)
            async with database.connection() as connection:
                await connection.execute("SELECT pg_notify($1, 'first')", PIPELINES_CHANNEL)
            await listener.until("first")


async def test_a_listener_is_called_at_intervals_while_the_pooler_is_down(
    postgres_cluster: PostgresCluster, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifications, "_POLL_INTERVAL", 0.01)
    listener = RecordingListener()
    async with (
        Database.open(database_url) as database,
        pgbouncer(postgres_cluster, database_url, "session") as in_session_mode,
    ):
        one = Notifications(database, in_session_mode.url)
        one.listen(PIPELINES_CHANNEL, listener)
        async with one.listening():
            await listener.until(None)
            await in_session_mode.kill()
            await listener.until(None, times=20)
            await in_session_mode.start()
            async with asyncio.timeout(30):
                while not one.is_receiving:
                    await listener.payloads.get()
            async with database.connection() as connection:
                await connection.execute("SELECT pg_notify($1, 'first')", PIPELINES_CHANNEL)
            await listener.until("first")


async def test_a_connection_that_is_lost_early_is_not_taken_for_a_pooler(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminate = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name = 'pipesync service-server listener'"
    )
    note_echo = Notifications._note_echo
    cut: list[asyncio.Task[None]] = []
    async with Database.open(database_url) as database:

        async def cut_off() -> None:
            async with database.connection() as connection:
                await connection.execute(terminate)

        def cut_off_once(self: Notifications, *notification: object) -> None:
            if cut:
                note_echo(self, *notification)
            else:
                cut.append(asyncio.create_task(cut_off()))

        monkeypatch.setattr(Notifications, "_note_echo", cut_off_once)
        listener = RecordingListener()
        one = Notifications(database)
        one.listen(PIPELINES_CHANNEL, listener)
        with structlog.testing.capture_logs() as captured:
            async with one.listening(), asyncio.timeout(20):
                while not one.is_receiving:
                    await listener.payloads.get()
        await cut[0]
    assert "notifications_unavailable" not in [entry["event"] for entry in captured]
