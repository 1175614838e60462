"""A continuous pipeline whose steps are shorter than a page takes: it reports that, and goes on."""

from pathlib import Path

from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync.v1.catalog_pb2 import Connector, PipelineConfig, StreamSelection
from pipesync_client import PipelineClient
from tests.end_to_end.held_requests import HeldRequests
from tests.end_to_end.tables import assert_tables_equal
from tests.messages import struct
from tests.processes import ServerProcess, running
from tests.service_server.watching import has_status, shown
from tests.stripe_simulator.seeds.plan import SeedPlan
from tests.stripe_simulator.simulator import StripeSimulator

PLAN = SeedPlan(counts={"customers": 250, "products": 60})


def continuous(simulator: StripeSimulator, url: str) -> pb.Pipeline:
    """Return a continuous pipeline from the simulated account to the database."""
    source = {
        "api_key": simulator.api_key,
        "base_url": simulator.base_url,
        "account_id": simulator.account_id,
    }
    config = PipelineConfig(
        source=Connector(type="stripe", config=struct(source)),
        destination=Connector(type="postgres", config=struct({"url": url})),
        streams=[StreamSelection(name=name) for name in PLAN.counts],
    )
    return pb.Pipeline(id="first", config=config, sync_policy=pb.SYNC_POLICY_CONTINUOUS)


async def test_steps_too_short_for_a_page_are_shown_as_an_error_until_pages_come(
    engine: ServerProcess, service_database_url: str, database_url: str, tmp_path: Path
) -> None:
    async with (
        StripeSimulator(PLAN) as simulator,
        running(
            "service_server",
            *("--listen", "127.0.0.1:0", "--engine", engine.address, "--data-dir", str(tmp_path)),
            *("--step-seconds", "0.2", "--retry-seconds", "0.2", "--longest-retry-seconds", "1"),
            environment={"PIPESYNC_DATABASE_URL": service_database_url},
        ) as server,
        PipelineClient(server.address) as client,
    ):
        for stream in PLAN.counts:
            simulator.faults.add(HeldRequests(), path=f"/v1/{stream}", times=None)
        wanted = continuous(simulator, database_url)
        # A check would wait for a page.
        await client.create_pipeline(pb.CreatePipelineRequest(pipeline=wanted, skip_check=True))
        broken = await shown(client, has_status(pb.PIPELINE_STATUS_ERROR), seconds=60)
        assert "3 requests in a row" in broken.status_message
        assert "no page arrived" in broken.status_message
        assert "--step-seconds" in broken.status_message
        simulator.faults.clear()
        await shown(client, has_status(pb.PIPELINE_STATUS_READY), seconds=60)
        await assert_tables_equal(simulator, database_url, PLAN.counts)
