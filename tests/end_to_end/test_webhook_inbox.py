"""Changes in an account, sent by webhook, from Stripe's delivery to the tables."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.end_to_end.command import PipelinesCommand
from tests.end_to_end.tables import assert_tables_equal, documents
from tests.processes import ServerProcess, running
from tests.stripe_simulator.seeds.plan import SeedPlan
from tests.stripe_simulator.simulator import StripeSimulator

STREAMS = ("customers", "products")
HOLD_LEASE = """
INSERT INTO pipesync.leases (pipeline_id, token, holder, acquire_time, expire_time)
VALUES ('acme', 0, 'test', now(), now() + interval '1 hour')
"""


@pytest.fixture
async def simulator() -> AsyncIterator[StripeSimulator]:
    async with StripeSimulator(SeedPlan(counts={"customers": 5, "products": 2})) as one:
        yield one


async def set_up(
    service: ServerProcess, simulator: StripeSimulator, database_url: str
) -> dict[str, Any]:
    """Create and sync a pipeline that takes webhooks, and return the endpoint."""
    endpoint = simulator.register_webhook(f"{service.http_address}/webhooks/acme")
    pipelines = PipelinesCommand(
        service=service.address, simulator=simulator, database_url=database_url
    )
    created = await pipelines.create(
        *("acme", STREAMS, "--source-config", f"webhook_secret={endpoint['secret']}"),
        *("--destination-config", "delete_mode=hard"),
    )
    assert created.exit_code == 0, created.stderr
    synced = await pipelines("sync_batch", "acme", "--loop", "0")
    assert synced.exit_code == 0, synced.stderr
    return endpoint


def change(simulator: StripeSimulator, *, creations: int) -> int:
    """Change the account, and return the number of events about the changes."""
    [first, second, *_] = simulator.objects("customers").documents()
    simulator.update("customers", first["id"], {"balance": 2**60 + 1})
    simulator.delete("customers", second["id"])
    for _ in range(creations):
        simulator.create("customers")
        simulator.create("products")
    return 2 + 2 * creations


async def until_applied(service_database_url: str, count: int) -> None:
    """Wait until exactly this many events arrived and all of them are applied."""
    connection = await asyncpg.connect(service_database_url)
    try:
        async with asyncio.timeout(60):
            while True:
                rows = await connection.fetch(
                    "SELECT status, count(*) FROM pipesync.webhook_events GROUP BY status"
                )
                if [tuple(row) for row in rows] == [(2, count)]:
                    return
                await asyncio.sleep(0.1)
    finally:
        await connection.close()


async def test_what_is_delivered_by_webhook_is_soon_in_the_tables(
    simulator: StripeSimulator,
    service: ServerProcess,
    service_database_url: str,
    database_url: str,
) -> None:
    endpoint = await set_up(service, simulator, database_url)
    simulator.deliveries.disturb(duplicates=0.5, reorder=0.05, seed=1)
    count = change(simulator, creations=20)
    await simulator.deliveries.settled()
    assert {attempt.status for attempt in simulator.deliveries.attempts} == {200}
    await until_applied(service_database_url, count)
    await assert_tables_equal(simulator, database_url, STREAMS)
    received = [event for event in service.events if event["event"] == "event_received"]
    assert len(received) >= count
    for names in ("event_id", "event_type", "pipeline_id", "request_id"):
        assert all(event[names] for event in received)
    assert endpoint["secret"] not in str(service.events)


async def test_a_webhook_with_characters_that_postgres_cannot_hold_is_applied(
    simulator: StripeSimulator,
    service: ServerProcess,
    service_database_url: str,
    database_url: str,
) -> None:
    await set_up(service, simulator, database_url)
    [first, second, *_] = simulator.objects("customers").documents()
    simulator.update("customers", first["id"], {"name": "half \ud83d of a pair"})
    simulator.update("customers", second["id"], {"name": "nul \0", "balance": 10**20})
    await simulator.deliveries.settled()
    assert {attempt.status for attempt in simulator.deliveries.attempts} == {200}
    await until_applied(service_database_url, 2)
    rows = {row["id"]: row for row in await documents(database_url, "customers")}
    assert rows[first["id"]]["name"] == "half \ufffd of a pair"
    assert (rows[second["id"]]["name"], rows[second["id"]]["balance"]) == ("nul \ufffd", 10**20)


@pytest.fixture
async def killable(engine: ServerProcess, service_database_url: str, tmp_path: Path) -> "Killable":
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return Killable(engine, service_database_url, tmp_path, port)


class Killable:
    """A service that restarts on the same HTTP port."""

    def __init__(self, engine: ServerProcess, url: str, data_dir: Path, port: int) -> None:
        self._arguments = (
            *("--listen", "127.0.0.1:0", "--http", f"127.0.0.1:{port}", "--lease-seconds", "1"),
            *("--engine", engine.address, "--data-dir", str(data_dir)),
        )
        self._environment = {"PIPESYNC_DATABASE_URL": url}

    def running(self) -> AbstractAsyncContextManager[ServerProcess]:
        return running("service_server", *self._arguments, environment=self._environment)


async def kill(service: ServerProcess) -> None:
    service.kill()
    assert await service.wait() < 0


async def waiting_for_a_lock(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    async with asyncio.timeout(30):
        while not await connection.fetchval(  # noqa: ASYNC110 - Postgres has no event for it
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            " AND datname = current_database()"
        ):
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("step", ["before it is stored", "before it is applied", "before the mark"])
async def test_a_service_that_is_killed_between_two_steps_loses_nothing(
    simulator: StripeSimulator,
    killable: Killable,
    service_database_url: str,
    database_url: str,
    step: str,
) -> None:
    async with killable.running() as service:
        await set_up(service, simulator, database_url)
        looking = await asyncpg.connect(service_database_url)
        holding = await asyncpg.connect(service_database_url)
        try:
            transaction = holding.transaction()
            await transaction.start()
            if step == "before it is stored":
                await holding.execute("LOCK TABLE pipesync.webhook_events IN SHARE MODE")
                count = change(simulator, creations=1)
                await waiting_for_a_lock(looking)
                await kill(service)
                assert await looking.fetchval("SELECT count(*) FROM pipesync.webhook_events") == 0
                assert 200 not in {one.status for one in simulator.deliveries.attempts}
            elif step == "before it is applied":
                await looking.execute(HOLD_LEASE)
                count = change(simulator, creations=1)
                await simulator.deliveries.settled()
                await kill(service)
                assert await looking.fetchval("SELECT count(*) FROM pipesync.webhook_events") == 4
                await looking.execute("DELETE FROM pipesync.leases")
            else:
                # Only one event: with several, a step may begin before the last has arrived.
                await looking.execute(HOLD_LEASE)
                simulator.create("products")
                count = 1
                await simulator.deliveries.settled()
                await holding.execute("LOCK TABLE pipesync.webhook_events IN SHARE MODE")
                await looking.execute("DELETE FROM pipesync.leases")
                await waiting_for_a_lock(looking)
                await assert_tables_equal(simulator, database_url, STREAMS)
                await kill(service)
            await transaction.rollback()
        finally:
            await looking.close()
            await holding.close()
    async with killable.running():
        await simulator.deliveries.settled()
        await until_applied(service_database_url, count)
    await assert_tables_equal(simulator, database_url, STREAMS)


async def test_a_service_that_is_killed_again_and_again_loses_nothing(
    simulator: StripeSimulator,
    killable: Killable,
    service_database_url: str,
    database_url: str,
) -> None:
    simulator.deliveries.disturb(duplicates=0.3, reorder=0.2, seed=2)
    async with killable.running() as service:
        await set_up(service, simulator, database_url)
        count = change(simulator, creations=10)
        await simulator.deliveries.attempted(5)
        await kill(service)
    for further in range(3):
        async with killable.running() as service:
            for _ in range(10):
                simulator.create("customers")
            count += 10
            await service.wait_for("webhook_events_applied" if further % 2 else "event_received")
            await kill(service)
    async with killable.running():
        await simulator.deliveries.settled()
        await until_applied(service_database_url, count)
    await assert_tables_equal(simulator, database_url, STREAMS)
