"""A key that may read some of the streams, and a key that is revoked while it is used."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from aiohttp import web

from pipesync.v1.progress_pb2 import RUN_STATUS_FAILED, RUN_STATUS_SUCCEEDED, StreamProgress
from tests.end_to_end.command import PipelinesCommand
from tests.end_to_end.stripe_pipeline import RPCS, Rpc, StripePipeline, selections, served_engine
from tests.end_to_end.tables import assert_tables_equal
from tests.processes import ServerProcess
from tests.stripe_simulator import faults
from tests.stripe_simulator.seeds.plan import SeedPlan
from tests.stripe_simulator.simulator import StripeSimulator

RESTRICTED = "rk_test_restricted"
PLAN = SeedPlan(counts={"customers": 900, "products": 40})


@pytest.fixture
async def simulator() -> AsyncIterator[StripeSimulator]:
    async with StripeSimulator(PLAN) as simulator:
        yield simulator


@pytest.fixture
def pipeline(simulator: StripeSimulator, database_url: str) -> StripePipeline:
    return StripePipeline(
        simulator=simulator,
        database_url=database_url,
        streams=selections("customers", "products"),
        destination={"batch_size": 100},
    )


@pytest.mark.parametrize("rpc", RPCS)
async def test_a_run_succeeds_without_the_streams_that_the_key_may_not_read(
    simulator: StripeSimulator, pipeline: StripePipeline, rpc: Rpc
) -> None:
    simulator.restrict_key(RESTRICTED, may_read=["/v1/products"])
    async with served_engine() as client:
        [end] = await replace(pipeline, source={"api_key": RESTRICTED}).sync_to_the_end(client, rpc)
    assert end.run_progress.derived.status == RUN_STATUS_SUCCEEDED
    skipped = end.run_progress.streams["customers"]
    assert skipped.status == StreamProgress.STATUS_SKIPPED
    assert "Enabling \"Customers Read\" ('customer_read') permissions" in skipped.message
    assert "request_id: req_" in skipped.message
    await assert_tables_equal(simulator, pipeline.database_url, ["products"])


@pytest.mark.parametrize("rpc", RPCS)
async def test_what_was_committed_before_a_key_expired_stays_and_the_next_key_goes_on(
    simulator: StripeSimulator, pipeline: StripePipeline, rpc: Rpc
) -> None:
    pages = 0

    async def expire_at_the_fifth_page(
        request: web.Request, serve: faults.Serve
    ) -> web.StreamResponse:
        nonlocal pages
        pages += 1
        if pages == 5:
            simulator.expire_key(simulator.api_key)
        return await serve(request)

    simulator.faults.add(expire_at_the_fifth_page, path="/v1/customers", times=None)
    async with served_engine() as client:
        failed = await pipeline.sync(client, rpc, run_id="run")
        assert failed.run_progress.derived.status == RUN_STATUS_FAILED
        assert "Expired API Key provided" in failed.run_progress.connection_status.message
        accounted = pipeline.accounted_ids(failed.ending_state, "customers")
        assert 0 < len(accounted) < PLAN.counts["customers"]
        assert accounted <= await pipeline.ids("customers")
        seen = len(simulator.requests.of("/v1/customers"))

        simulator.restrict_key(RESTRICTED, may_read=["/v1/*"])
        renewed = replace(pipeline, source={"api_key": RESTRICTED})
        [end] = await renewed.sync_to_the_end(client, rpc, state=failed.ending_state, run_id="run")
    assert end.run_progress.derived.status == RUN_STATUS_SUCCEEDED
    await assert_tables_equal(simulator, pipeline.database_url, PLAN.counts)
    # It continued from the checkpoint, rather than from the start.
    pages_left = (PLAN.counts["customers"] - len(accounted)) / 100
    assert len(simulator.requests.of("/v1/customers")) - seen <= pages_left + 2


async def test_the_command_names_the_streams_that_the_key_may_not_read(
    simulator: StripeSimulator, service: ServerProcess, database_url: str
) -> None:
    simulator.restrict_key(RESTRICTED, may_read=["/v1/account", "/v1/products"])
    pipelines = PipelinesCommand(
        service=service.address, simulator=simulator, database_url=database_url
    )
    restricted = ("--source-config", f"api_key={RESTRICTED}")
    created = await pipelines.create("some", ["customers", "products"], *restricted)
    assert created.exit_code == 0
    assert created.stderr.startswith("warning: cannot read customers: Permission denied.")
    checked = await pipelines("check", "some")
    assert checked.exit_code == 0
    reached, customers, postgres = checked.stdout.splitlines()
    assert reached == (
        "source/stripe succeeded: reached account acct_simulator; may read 1 of 2 selected streams"
    )
    assert customers.startswith("source/stripe cannot read customers: Permission denied.")
    assert "Enabling \"Customers Read\" ('customer_read')" in customers
    assert postgres == "destination/postgres succeeded"
    assert RESTRICTED not in created.stdout + created.stderr + checked.stdout

    none = await pipelines.create("none", ["customers", "invoices"], *restricted)
    assert none.exit_code != 0
    assert "may read no selected stream: customers: Permission denied." in none.stderr


async def test_every_stream_is_checked_when_none_is_selected(
    simulator: StripeSimulator, service: ServerProcess, database_url: str
) -> None:
    pipelines = PipelinesCommand(
        service=service.address, simulator=simulator, database_url=database_url
    )
    simulator.restrict_key(RESTRICTED, may_read=["/v1/account", "/v1/c*"])
    created = await pipelines.create("all", [], "--source-config", f"api_key={RESTRICTED}")
    assert created.exit_code == 0
    warnings = created.stderr.splitlines()
    assert len(warnings) > 50
    assert all(line.startswith("warning: cannot read ") for line in warnings)
