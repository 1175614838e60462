"""An engine whose stripe package has one field more than the last one's: old rows get it, too."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync.v1.catalog_pb2 import Connector, PipelineConfig, StreamSelection
from pipesync_client import PipelineClient
from tests.catalogs.altered import altered_package, replacing
from tests.catalogs.loading import python_path
from tests.end_to_end.command import PipelinesCommand
from tests.messages import struct
from tests.processes import ServerProcess, running
from tests.service_server.watching import has_status, shown
from tests.stripe_simulator.seeds.plan import SeedPlan
from tests.stripe_simulator.simulator import StripeSimulator

PLAN = SeedPlan(counts={"customers": 350, "products": 20})
# Two engines and a service are started one after the other, beside other tests.
pytestmark = pytest.mark.timeout(300)

FIELD = "loyalty_tier"
NEW_FIELD = replacing(
    "    preferred_locales: ", f"    {FIELD}: Optional[str]\n    preferred_locales: "
)
# The service reconciles every five seconds or so.
OFTEN = ("--step-seconds", "3", "--read-seconds", "1", "--reconcile-days", "0.00006")


@asynccontextmanager
async def newer_engine(tmp_path: Path, address: str) -> AsyncIterator[ServerProcess]:
    """Run an engine in the place of an older one, whose customers have one field more."""
    package = altered_package(tmp_path / "newer", {"_customer.py": NEW_FIELD})
    environment = {"PYTHONPATH": python_path(package)}
    async with running("engine_server", "--listen", address, environment=environment) as server:
        yield server


async def replace_engine(engine: ServerProcess, simulator: StripeSimulator) -> None:
    """End the older engine, and make Stripe show the field from now on, without any event."""
    engine.kill()
    await engine.wait()
    customers = simulator.objects("customers")
    for document in list(customers.documents()):
        customers.put({**document, FIELD: "gold"})


async def tiers(url: str) -> dict[str | None, int] | None:
    """Return the number of rows by value of the new column; None while there is no such column."""
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch(
            f"SELECT {FIELD} AS tier, count(*) AS rows FROM stripe.customers GROUP BY 1"  # noqa: S608
        )
    except asyncpg.UndefinedColumnError:
        return None
    finally:
        await connection.close()
    return {row["tier"]: row["rows"] for row in rows}


async def test_a_continuous_pipeline_fills_the_new_column_of_old_rows_by_itself(
    engine: ServerProcess, service_database_url: str, database_url: str, tmp_path: Path
) -> None:
    async with (
        StripeSimulator(PLAN) as simulator,
        running(
            "service_server",
            *("--listen", "127.0.0.1:0", "--engine", engine.address, "--data-dir", str(tmp_path)),
            *("--retry-seconds", "0.2", "--longest-retry-seconds", "1", *OFTEN),
            environment={"PIPESYNC_DATABASE_URL": service_database_url},
        ) as service,
        PipelineClient(service.address) as client,
    ):
        source = {"api_key": simulator.api_key, "base_url": simulator.base_url}
        config = PipelineConfig(
            source=Connector(type="stripe", config=struct(source)),
            destination=Connector(type="postgres", config=struct({"url": database_url})),
            streams=[StreamSelection(name=name) for name in PLAN.counts],
        )
        wanted = pb.Pipeline(id="first", config=config, sync_policy=pb.SYNC_POLICY_CONTINUOUS)
        await client.create_pipeline(pb.CreatePipelineRequest(pipeline=wanted))
        await shown(client, has_status(pb.PIPELINE_STATUS_READY), seconds=60)
        assert await tiers(database_url) is None
        await replace_engine(engine, simulator)
        async with newer_engine(tmp_path, engine.address):
            request = pb.WatchPipelineRequest(pipeline_id="first")
            async with asyncio.timeout(120), aclosing(client.watch_pipeline(request)) as changes:
                async for _ in changes:
                    if await tiers(database_url) == {"gold": 350}:
                        break
            # The rows show the column as soon as it is committed: before the setup answers.
            await service.wait_for("lifecycle_step", step="setup", renews=True, timeout=120)
            full = pb.GetPipelineRequest(pipeline_id="first", view=pb.PIPELINE_VIEW_FULL)
            stored = (await client.get_pipeline(full)).pipeline
            assert stored.sync_state.stream_schemas.keys() == PLAN.counts.keys()
    # Once it has ended, its whole log is read.
    setups = [one for one in service.events if one.get("step") == "setup"]
    assert [one["outcome"] for one in setups] == ["wassetup", "wassetup"], setups


async def test_a_manual_pipeline_is_told_what_to_run_until_it_is_done(
    engine: ServerProcess, service: ServerProcess, database_url: str, tmp_path: Path
) -> None:
    async with StripeSimulator(PLAN) as simulator:
        pipelines = PipelinesCommand(
            service=service.address, simulator=simulator, database_url=database_url
        )
        assert (await pipelines.create("manual", PLAN.counts)).exit_code == 0
        assert (await pipelines("setup", "manual")).exit_code == 0
        first = await pipelines("sync_batch", "manual", "--loop", "0")
        assert (first.exit_code, "lack" in first.stderr) == (0, False)
        await replace_engine(engine, simulator)
        async with newer_engine(tmp_path, engine.address) as newer:
            for command in (("sync_batch", "manual"), ("sync", "manual")):
                told = await pipelines(*command)
                assert told.exit_code == 0, told.stderr
                assert "since these streams were read: customers. Run pipelines" in told.stderr
                assert "pipelines setup manual, then pipelines reconcile manual" in told.stderr
            assert "warn: engine: older rows lack fields" in told.stderr
            await service.wait_for("streams_outdated", streams=["customers"])
            await newer.wait_for("streams_outdated", streams=["customers"])
            assert (await pipelines("setup", "manual")).exit_code == 0
            assert await tiers(database_url) == {None: 350}
            cut = await pipelines("sync_batch", "manual", "--run-id", "other", "--state-limit", "1")
            assert "pipelines reconcile manual" in cut.stderr
            done = await pipelines("reconcile", "manual")
            assert done.exit_code == 0, done.stderr
            assert "read again, with the fields that were added: customers." in done.stderr
            assert await tiers(database_url) == {"gold": 350}
            after = await pipelines("sync", "manual")
            assert (after.exit_code, "lack" in after.stderr) == (0, False)
