"""Crashes of any server in mid-sync, after which the next sync_batch completes the pipeline."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from pipesync.v1.state_pb2 import SyncState
from tests.end_to_end.command import PipelinesCommand
from tests.end_to_end.held_requests import after
from tests.end_to_end.tables import assert_tables_equal, documents
from tests.postgres import PostgresCluster
from tests.processes import CommandResult, ServerProcess, running
from tests.stripe_simulator import faults
from tests.stripe_simulator.seeds.plan import SeedPlan
from tests.stripe_simulator.simulator import StripeSimulator

PLAN = SeedPlan(counts={"customers": 4000, "products": 150, "prices": 450})
# Enough for a flush of a thousand rows to be committed, and fewer than all pages.
PAGES_LET_THROUGH = 25
CUSTOMERS_PATH = "/v1/customers"


@pytest.fixture
async def simulator() -> AsyncIterator[StripeSimulator]:
    async with StripeSimulator(PLAN) as one:
        yield one


def running_service(
    engine: ServerProcess, service_database_url: str, directory: Path
) -> ServerProcess:
    return ServerProcess(
        "service_server",
        [
            *("--listen", "127.0.0.1:0", "--engine", engine.address),
            # A service that was killed keeps its leases for this time.
            *("--data-dir", str(directory), "--lease-seconds", "1"),
        ],
        {"PIPESYNC_DATABASE_URL": service_database_url},
    )


async def complete(pipelines: PipelinesCommand) -> None:
    """Run the pipeline to its end, once a dead service's lease has run out."""
    result = await pipelines("sync_batch", "crashed", "--loop", "0", "--raw")
    while "SYNC_IN_PROGRESS" in result.stderr or "under way" in result.stderr:
        result = await pipelines("sync_batch", "crashed", "--loop", "0", "--raw")
    assert result.exit_code == 0, result.stderr
    last = result.json_lines()[-1]
    assert (last["status"], last["has_more"]) == ("succeeded", False)


async def assert_all_rows_arrived(pipelines: PipelinesCommand) -> None:
    await assert_tables_equal(pipelines.simulator, pipelines.database_url, PLAN.counts)


async def sync_until_stalled(
    command: str, pipelines: PipelinesCommand, engine: ServerProcess, released: asyncio.Event
) -> asyncio.Task[CommandResult]:
    """Begin a sync, and return it with some rows committed and some pages not read."""
    created = await pipelines.create("crashed", PLAN.counts)
    assert created.exit_code == 0, created.stderr
    pipelines.simulator.faults.add(
        after(PAGES_LET_THROUGH, faults.stall(released)), path=CUSTOMERS_PATH, times=None
    )
    syncing = asyncio.create_task(pipelines(command, "crashed", "--raw"))
    await pipelines.simulator.requests.wait_for(CUSTOMERS_PATH, PAGES_LET_THROUGH + 1)
    await engine.wait_for("flush_committed")
    return syncing


async def until_stored(database_url: str) -> None:
    """Wait until a stream's checkpoint is stored; that of a batch is stored only at its end."""
    connection = await asyncpg.connect(database_url)
    try:
        async with asyncio.timeout(20):
            while True:
                stored = await connection.fetchval("SELECT sync_state FROM pipesync.states")
                if stored is not None and SyncState.FromString(stored).source.streams:
                    return
                await asyncio.sleep(0.05)
    finally:
        await connection.close()


COMMANDS = pytest.mark.parametrize("command", ["sync", "sync_batch"])


@COMMANDS
async def test_an_engine_killed_in_mid_sync(
    command: str,
    simulator: StripeSimulator,
    engine: ServerProcess,
    service: ServerProcess,
    service_database_url: str,
    database_url: str,
) -> None:
    pipelines = PipelinesCommand(
        service=service.address, simulator=simulator, database_url=database_url
    )
    released = asyncio.Event()
    syncing = await sync_until_stalled(command, pipelines, engine, released)
    if command == "sync":
        await until_stored(service_database_url)
    engine.kill()
    await engine.wait()
    result = await syncing
    assert result.exit_code == 1
    assert "Traceback" not in result.stderr
    arrived = await documents(database_url, "customers")
    assert 0 < len(arrived) < PLAN.counts["customers"]
    released.set()
    async with running("engine_server", "--listen", engine.address):
        await complete(pipelines)
        await assert_all_rows_arrived(pipelines)


@COMMANDS
async def test_a_service_killed_in_mid_sync(
    command: str,
    simulator: StripeSimulator,
    engine: ServerProcess,
    service_database_url: str,
    database_url: str,
    tmp_path: Path,
) -> None:
    released = asyncio.Event()
    first = running_service(engine, service_database_url, tmp_path)
    second = running_service(engine, service_database_url, tmp_path)
    try:
        await first.start()
        pipelines = PipelinesCommand(
            service=first.address, simulator=simulator, database_url=database_url
        )
        syncing = await sync_until_stalled(command, pipelines, engine, released)
        if command == "sync":
            await until_stored(service_database_url)
        first.kill()
        await first.wait()
        result = await syncing
        assert result.exit_code == 1
        assert "Traceback" not in result.stderr
        released.set()
        await second.start()
        pipelines = PipelinesCommand(
            service=second.address, simulator=simulator, database_url=database_url
        )
        await complete(pipelines)
        await assert_all_rows_arrived(pipelines)
    finally:
        await first.stop()
        await second.stop()


@COMMANDS
async def test_postgres_restarted_in_mid_sync(
    command: str,
    simulator: StripeSimulator,
    engine: ServerProcess,
    service: ServerProcess,
    postgres_cluster: PostgresCluster,
    database_url: str,
) -> None:
    pipelines = PipelinesCommand(
        service=service.address, simulator=simulator, database_url=database_url
    )
    released = asyncio.Event()
    syncing = await sync_until_stalled(command, pipelines, engine, released)
    await asyncio.to_thread(postgres_cluster.restart)
    released.set()
    result = await syncing
    assert "Traceback" not in result.stderr
    await complete(pipelines)
    await assert_all_rows_arrived(pipelines)
