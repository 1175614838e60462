"""A database that the first release created, with years of use before it."""

from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync.v1.progress_pb2 import RUN_STATUS_FAILED, RUN_STATUS_SUCCEEDED
from pipesync_client import PipelineClient
from service_server.store.migration import load_migrations
from tests.messages import struct
from tests.processes import ServerProcess, running
from tests.service_server.conftest import KEY
from tests.stripe_simulator.seeds.plan import SeedPlan
from tests.stripe_simulator.simulator import StripeSimulator

FIRST_RELEASE = Path(__file__).parents[1] / "service_server" / "store" / "first_release.sql"
# The objects of the account, of which 300 customers and all products had been synced.
PLAN = SeedPlan(counts={"customers": 700, "products": 60})


@pytest.fixture
async def client(
    engine: ServerProcess, service_database_url: str, tmp_path: Path
) -> AsyncIterator[PipelineClient]:
    """Yield a client of the current service on that database."""
    connection = await asyncpg.connect(service_database_url)
    await connection.execute(FIRST_RELEASE.read_text())
    await connection.close()
    arguments = ("--listen", "127.0.0.1:0", "--engine", engine.address, "--data-dir", str(tmp_path))
    environment = {
        "PIPESYNC_DATABASE_URL": service_database_url,
        "PIPESYNC_ENCRYPTION_KEYS": KEY,
    }
    async with (
        running("service_server", *arguments, environment=environment) as server,
        PipelineClient(server.address) as client,
    ):
        yield client


async def rows(url: str, query: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetch(query)
    finally:
        await connection.close()


async def full(client: PipelineClient, pipeline_id: str) -> pb.Pipeline:
    request = pb.GetPipelineRequest(pipeline_id=pipeline_id, view=pb.PIPELINE_VIEW_FULL)
    return (await client.get_pipeline(request)).pipeline


async def runs(client: PipelineClient, pipeline_id: str) -> list[pb.Run]:
    return list((await client.list_runs(pb.ListRunsRequest(pipeline_id=pipeline_id))).runs)


async def point_at(
    client: PipelineClient, pipeline: pb.Pipeline, simulator: StripeSimulator, url: str
) -> None:
    """Change the source URL and the database; a key sent to another URL must be given anew."""
    assert pipeline.config.source.config["api_key"] == "********"
    changed = pb.Pipeline(id=pipeline.id, config=pipeline.config)
    source = {"base_url": simulator.base_url, "api_key": simulator.api_key}
    changed.config.source.config.update(source)
    changed.config.destination.config.CopyFrom(struct({"url": url}))
    mask = FieldMask(paths=["config.source", "config.destination"])
    await client.update_pipeline(pb.UpdatePipelineRequest(pipeline=changed, update_mask=mask))


async def test_everything_in_it_is_found_again(
    client: PipelineClient, service_database_url: str
) -> None:
    applied = await rows(service_database_url, "SELECT number FROM pipesync.migrations")
    assert sorted(row["number"] for row in applied) == [one.number for one in load_migrations()]
    listed = (await client.list_pipelines(pb.ListPipelinesRequest())).pipelines
    assert [(one.id, one.status, one.desired_status) for one in listed] == [
        ("finished", pb.PIPELINE_STATUS_READY, pb.DESIRED_STATUS_ACTIVE),
        ("half-done", pb.PIPELINE_STATUS_BACKFILL, pb.DESIRED_STATUS_ACTIVE),
        ("paused", pb.PIPELINE_STATUS_PAUSED, pb.DESIRED_STATUS_PAUSED),
    ]
    half_done = await full(client, "half-done")
    assert '"record_count":300' in half_done.sync_state.source.streams["customers"]
    assert half_done.progress.derived.total_record_count == 360
    assert [stream.name for stream in half_done.config.streams] == ["customers", "products"]
    [refused] = await runs(client, "paused")
    assert (refused.run_id, refused.status) == ("refused", RUN_STATUS_FAILED)
    assert "Invalid API Key" in refused.failure_message


async def test_a_run_in_it_goes_on_where_it_stopped(
    client: PipelineClient, service_database_url: str, database_url: str
) -> None:
    [before] = await runs(client, "half-done")
    [held] = await rows(service_database_url, "SELECT token FROM pipesync.leases")
    async with StripeSimulator(PLAN) as simulator:
        await point_at(client, await full(client, "half-done"), simulator, database_url)
        assert [
            _ async for _ in client.setup_pipeline(pb.SetupPipelineRequest(pipeline_id="half-done"))
        ]
        request = pb.SyncPipelineBatchRequest(pipeline_id="half-done", run_id="cut-short")
        eof = (await client.sync_pipeline_batch(request)).eof
    assert (eof.status, eof.has_more) == (RUN_STATUS_SUCCEEDED, False)
    # The database is another one: its tables are empty, and read from the start.
    assert {one.stream for one in eof.rewound_streams if one.from_start} >= {"customers"}
    assert eof.run_progress.streams["customers"].record_count == 700
    [written] = await rows(database_url, "SELECT count(*) FROM stripe.customers")
    assert written["count"] == 700
    [after] = await runs(client, "half-done")
    assert (after.status, after.start_time) == (RUN_STATUS_SUCCEEDED, before.start_time)
    [token] = await rows(service_database_url, "SELECT last_value FROM pipesync.fencing_tokens")
    assert token["last_value"] > held["token"]
    assert not await rows(service_database_url, "SELECT FROM pipesync.leases")


async def test_what_was_synced_is_synced_again_and_what_is_not_wanted_is_deleted(
    client: PipelineClient, database_url: str
) -> None:
    async with StripeSimulator(PLAN) as simulator:
        await point_at(client, await full(client, "finished"), simulator, database_url)
        assert [
            _ async for _ in client.setup_pipeline(pb.SetupPipelineRequest(pipeline_id="finished"))
        ]
        answer = await client.sync_pipeline_batch(
            pb.SyncPipelineBatchRequest(pipeline_id="finished")
        )
    assert answer.eof.status == RUN_STATUS_SUCCEEDED
    assert len(await runs(client, "finished")) == 2
    await client.delete_pipeline(pb.DeletePipelineRequest(pipeline_id="paused", skip_teardown=True))
    listed = (await client.list_pipelines(pb.ListPipelinesRequest())).pipelines
    assert [one.id for one in listed] == ["finished", "half-done"]
