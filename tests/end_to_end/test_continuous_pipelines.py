"""A continuous pipeline from its creation to its deletion, with the real engine."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync.v1.catalog_pb2 import Connector, PipelineConfig, StreamSelection
from pipesync_client import PipelineClient
from tests.end_to_end.damage import Backups, truncate
from tests.end_to_end.tables import assert_documents_equal, assert_tables_equal, documents
from tests.messages import struct
from tests.processes import ServerProcess, running
from tests.service_server.watching import has_status, shown
from tests.stripe_simulator.seeds.plan import SeedPlan
from tests.stripe_simulator.simulator import StripeSimulator

PLAN = SeedPlan(counts={"customers": 1500, "products": 150, "prices": 300})
READY = has_status(pb.PIPELINE_STATUS_READY)


@pytest.fixture
async def simulator() -> AsyncIterator[StripeSimulator]:
    async with StripeSimulator(PLAN) as one:
        yield one


@pytest.fixture
async def client(
    engine: ServerProcess, service_database_url: str, tmp_path: Path
) -> AsyncIterator[PipelineClient]:
    """Yield a client of a service that reads new events every second."""
    async with (
        running(
            "service_server",
            *("--listen", "127.0.0.1:0", "--engine", engine.address, "--data-dir", str(tmp_path)),
            *("--step-seconds", "3", "--read-seconds", "1", "--retry-seconds", "0.2"),
            *("--longest-retry-seconds", "1"),
            environment={"PIPESYNC_DATABASE_URL": service_database_url},
        ) as server,
        PipelineClient(server.address) as client,
    ):
        yield client


async def create(
    client: PipelineClient, simulator: StripeSimulator, url: str, **of_source: Any
) -> pb.Pipeline:
    source = {
        **of_source,
        "api_key": simulator.api_key,
        "base_url": simulator.base_url,
        "account_id": simulator.account_id,
    }
    config = PipelineConfig(
        source=Connector(type="stripe", config=struct(source)),
        destination=Connector(type="postgres", config=struct({"url": url})),
        streams=[StreamSelection(name="customers"), StreamSelection(name="products")],
    )
    wanted = pb.Pipeline(id="first", config=config, sync_policy=pb.SYNC_POLICY_CONTINUOUS)
    return (await client.create_pipeline(pb.CreatePipelineRequest(pipeline=wanted))).pipeline


async def set_desired(client: PipelineClient, status: pb.DesiredStatus.ValueType) -> None:
    request = pb.UpdatePipelineRequest(pipeline=pb.Pipeline(id="first", desired_status=status))
    request.update_mask.paths.append("desired_status")
    await client.update_pipeline(request)


async def until_there(url: str, stream: str, object_id: str) -> None:
    """Wait until an object is in its table; a poll that changes rows notifies no watcher."""
    async with asyncio.timeout(90):
        while object_id not in {document["id"] for document in await documents(url, stream)}:  # noqa: ASYNC110 - see above
            await asyncio.sleep(0.2)


async def until_equal(simulator: StripeSimulator, url: str) -> None:
    """Wait until the tables equal the account; a poll that changes rows notifies no watcher."""
    difference = AssertionError("nothing was compared")
    try:
        async with asyncio.timeout(90):
            while True:
                try:
                    return await assert_alive_equal(simulator, url, ["customers", "products"])
                except AssertionError as error:
                    difference = error
                await asyncio.sleep(0.2)
    except TimeoutError:
        raise difference from None


async def assert_alive_equal(simulator: StripeSimulator, url: str, streams: list[str]) -> None:
    """Assert that every object is in its table, and all other rows are marked as deleted."""
    for stream in streams:
        rows = await documents(url, stream)
        alive = {row["id"]: row for row in rows if not row.get("deleted")}
        assert_documents_equal(
            alive, {each["id"]: each for each in simulator.objects(stream).documents()}, stream
        )


async def test_a_pipeline_needs_nobody_from_its_creation_to_its_deletion(
    client: PipelineClient,
    engine: ServerProcess,
    simulator: StripeSimulator,
    database_url: str,
) -> None:
    created = await create(client, simulator, database_url)
    await shown(client, READY, seconds=60)
    await assert_tables_equal(simulator, database_url, ["customers", "products"])

    made = simulator.create("customers")
    await until_there(database_url, "customers", made["id"])

    await set_desired(client, pb.DESIRED_STATUS_PAUSED)
    await shown(client, has_status(pb.PIPELINE_STATUS_PAUSED))
    streams = [*created.config.streams, StreamSelection(name="prices")]
    held = simulator.create("customers")
    wanted = pb.Pipeline(id="first", config=PipelineConfig(streams=streams))
    update = pb.UpdatePipelineRequest(pipeline=wanted)
    update.update_mask.paths.append("config.streams")
    await client.update_pipeline(update)
    await set_desired(client, pb.DESIRED_STATUS_ACTIVE)
    await until_there(database_url, "customers", held["id"])
    await shown(client, READY, seconds=60)
    await assert_tables_equal(simulator, database_url, ["customers", "products", "prices"])

    engine.kill()
    await engine.wait()
    broken = await shown(client, has_status(pb.PIPELINE_STATUS_ERROR), seconds=60)
    assert "cannot be reached, or went away" in broken.status_message
    late = simulator.create("products")
    async with running("engine_server", "--listen", engine.address):
        await shown(client, READY, seconds=60)
        await until_there(database_url, "products", late["id"])
        await client.delete_pipeline(pb.DeletePipelineRequest(pipeline_id="first"))
    connection = await asyncpg.connect(database_url)
    try:
        assert await connection.fetchval("SELECT to_regclass('stripe.customers')") is None
    finally:
        await connection.close()


async def restore(client: PipelineClient, backups: Backups, backup: int) -> None:
    """Pause the pipeline, restore a backup beneath it, and resume it."""
    await set_desired(client, pb.DESIRED_STATUS_PAUSED)
    await shown(client, has_status(pb.PIPELINE_STATUS_PAUSED))
    await backups.restore(backup)
    await set_desired(client, pb.DESIRED_STATUS_ACTIVE)


async def test_a_backup_restored_while_a_pipeline_is_paused_heals_by_itself(
    client: PipelineClient, simulator: StripeSimulator, database_url: str
) -> None:
    await create(client, simulator, database_url, poll_events=True)
    await shown(client, READY, seconds=60)
    backups = Backups(url=database_url)
    backup = await backups.make()
    changed, deleted = sorted(simulator.objects("customers").ids())[:2]
    for _ in range(2):
        simulator.update("customers", changed, {"name": "changed"})
        made = simulator.create("customers")
        await until_there(database_url, "customers", made["id"])
        await restore(client, backups, backup)
        await until_there(database_url, "customers", made["id"])
    simulator.delete("customers", deleted)
    await truncate(database_url, "products")
    last = simulator.create("products")
    await until_equal(simulator, database_url)
    await restore(client, backups, backup)
    await until_there(database_url, "products", last["id"])
    await until_equal(simulator, database_url)
