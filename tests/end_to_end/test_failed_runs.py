"""Runs that fail, in one stream or altogether: the rows and states kept, and how they resume."""

from collections.abc import AsyncIterator

import pytest

from pipesync.v1.engine_service_pb2 import PipelineSetupRequest
from pipesync.v1.progress_pb2 import (
    RUN_STATUS_FAILED,
    RUN_STATUS_SUCCEEDED,
    ConnectionStatus,
    StreamProgress,
)
from pipesync_client import EngineClient
from tests.end_to_end.held_requests import after
from tests.end_to_end.stripe_pipeline import (
    RPCS,
    Rpc,
    StripePipeline,
    selections,
    served_engine,
)
from tests.end_to_end.tables import assert_tables_equal, broken_table
from tests.stripe_simulator import errors, faults
from tests.stripe_simulator.seeds.plan import SeedPlan
from tests.stripe_simulator.simulator import StripeSimulator

CUSTOMERS = "/v1/customers"

BOTH_RPCS = pytest.mark.parametrize("rpc", RPCS)


@pytest.fixture
async def client() -> AsyncIterator[EngineClient]:
    async with served_engine() as engine:
        yield engine


@BOTH_RPCS
async def test_a_refused_stream_is_read_no_further_and_again_by_a_new_run(
    database_url: str, client: EngineClient, rpc: Rpc
) -> None:
    counts = {"customers": 3000, "products": 90}
    async with StripeSimulator(SeedPlan(counts=counts)) as simulator:
        pipeline = StripePipeline(
            simulator=simulator,
            database_url=database_url,
            streams=selections(*counts),
            source={"max_concurrency": 1},
            destination={"batch_size": 100},
        )
        oldest = list(simulator.objects("customers").documents())[-1]["id"]
        setup = PipelineSetupRequest(pipeline=pipeline.config())
        assert [_ async for _ in client.pipeline_setup(setup)]

        async with broken_table(database_url, "customers", oldest):
            first = await pipeline.sync(client, rpc, run_id="r1")
            assert (first.status, first.has_more) == (RUN_STATUS_FAILED, False)
            refused = first.run_progress.streams["customers"]
            assert refused.status == StreamProgress.STATUS_ERRORED
            assert "no_such_table" in refused.message
            products = first.run_progress.streams["products"]
            assert products.status == StreamProgress.STATUS_COMPLETED
            assert "customers" not in first.ending_state.source.streams
            # Other rows may have been committed beside it: no checkpoint covers them.
            assert oldest not in await pipeline.ids("customers")
            # Some requests were under way when it was refused; at least a third were never sent.
            assert len(simulator.requests.of(CUSTOMERS)) <= 20

            simulator.requests.clear()
            again = await pipeline.sync(client, rpc, run_id="r1", state=first.ending_state)
            assert (again.status, again.has_more) == (RUN_STATUS_FAILED, False)
            assert again.run_progress.streams["customers"] == refused
            assert len(simulator.requests) == 0

        ends = await pipeline.sync_to_the_end(client, rpc, run_id="r2", state=again.ending_state)
        assert ends[-1].status == RUN_STATUS_SUCCEEDED
        await assert_tables_equal(simulator, database_url, counts)


@BOTH_RPCS
async def test_a_key_revoked_in_mid_run_fails_the_connection_and_loses_nothing(
    database_url: str, client: EngineClient, rpc: Rpc
) -> None:
    counts = {"customers": 260, "products": 90}
    async with StripeSimulator(SeedPlan(counts=counts)) as simulator:
        pipeline = StripePipeline(
            simulator=simulator, database_url=database_url, streams=selections(*counts)
        )
        pages = 2
        revoked = faults.refuse(errors.unknown_key(simulator.api_key))
        simulator.faults.add(after(pages, revoked), path=CUSTOMERS, times=None)
        failed = await pipeline.sync(client, rpc, run_id="r1")
        assert (failed.status, failed.has_more) == (RUN_STATUS_FAILED, False)
        connection = failed.run_progress.connection_status
        assert connection.status == ConnectionStatus.STATUS_FAILED
        assert "Invalid API Key" in connection.message
        assert simulator.api_key not in str(failed)
        arrived = await pipeline.ids("customers")
        assert len(arrived) == pages * 100
        assert pipeline.accounted_ids(failed.ending_state, "customers") == arrived
        assert failed.run_progress.streams["customers"].record_count == len(arrived)

        simulator.faults.clear()
        ends = await pipeline.sync_to_the_end(client, rpc, run_id="r1", state=failed.ending_state)
        assert ends[-1].status == RUN_STATUS_SUCCEEDED
        assert ends[-1].run_progress.derived.total_record_count == sum(counts.values())
        await assert_tables_equal(simulator, database_url, counts)
