"""A sync that is stopped at any checkpoint, and continues on another engine, loses nothing."""

from contextlib import AbstractAsyncContextManager, AsyncExitStack

import pytest
from google.protobuf.struct_pb2 import Struct

from pipesync.v1.catalog_pb2 import Connector, PipelineConfig, StreamSelection
from pipesync.v1.engine_service_pb2 import PipelineSyncBatchRequest, SyncOptions
from pipesync.v1.progress_pb2 import RUN_STATUS_SUCCEEDED
from pipesync.v1.state_pb2 import Eof, SyncState
from pipesync_client import EngineClient
from tests.end_to_end.tables import assert_tables_equal
from tests.processes import ServerProcess, running
from tests.stripe_simulator import faults
from tests.stripe_simulator.seeds.plan import SeedPlan
from tests.stripe_simulator.simulator import StripeSimulator

# Many customers share one second; products and coupons are listed beside them.
PLAN = SeedPlan(
    counts={"customers": 900, "products": 260, "coupons": 230}, same_second={"customers": 350}
)
RUN_ID = "stop-anywhere"


def pipeline(simulator: StripeSimulator, url: str, schema: str) -> PipelineConfig:
    source, destination = Struct(), Struct()
    source.update({"api_key": simulator.api_key, "base_url": simulator.base_url})
    destination.update({"url": url, "schema": schema})
    return PipelineConfig(
        source=Connector(type="stripe", config=source),
        destination=Connector(type="postgres", config=destination),
        streams=[StreamSelection(name=name) for name in PLAN.counts],
    )


def new_engine() -> AbstractAsyncContextManager[ServerProcess]:
    return running("engine_server", "--listen", "127.0.0.1:0")


async def sync_batch(
    engine: str, config: PipelineConfig, state: SyncState, state_limit: int = 0
) -> Eof:
    options = SyncOptions(state=state, run_id=RUN_ID, state_limit=state_limit)
    async with EngineClient(engine) as client:
        request = PipelineSyncBatchRequest(pipeline=config, options=options)
        return (await client.pipeline_sync_batch(request)).eof


async def sync_to_the_end(engine: str, config: PipelineConfig, state: SyncState) -> Eof:
    eof = await sync_batch(engine, config, state)
    while eof.has_more:
        eof = await sync_batch(engine, config, eof.ending_state)
    return eof


@pytest.mark.timeout(400)  # Dozens of engines are started.
async def test_stopped_after_every_checkpoint_and_resumed_in_a_new_engine(
    database_url: str,
) -> None:
    async with AsyncExitStack() as stack:
        simulator = await stack.enter_async_context(StripeSimulator(PLAN))
        simulator.faults.add(faults.jittered_latency(0.0, 0.03, seed=7), times=None)
        engine = await stack.enter_async_context(new_engine())
        stopped_after = 0
        has_more = True
        while has_more:
            stopped_after += 1
            schema = f"stopped_after_{stopped_after}"
            config = pipeline(simulator, database_url, schema)
            eof = await sync_batch(engine.address, config, SyncState(), stopped_after)
            has_more = eof.has_more
            if has_more:
                assert eof.run_progress.derived.total_state_count == stopped_after
                await engine.stop()
                # The new engine resumes this sync, and begins the next one.
                engine = await stack.enter_async_context(new_engine())
                eof = await sync_to_the_end(engine.address, config, eof.ending_state)
            assert eof.status == RUN_STATUS_SUCCEEDED, eof.failure_message
            await assert_tables_equal(simulator, database_url, PLAN.counts, schema=schema)
        # The sync was stopped at every checkpoint of a whole one, which has at least one a page.
        assert stopped_after > sum(-(-count // 100) for count in PLAN.counts.values())


async def test_read_one_checkpoint_at_a_time(database_url: str) -> None:
    async with (
        StripeSimulator(PLAN) as simulator,
        new_engine() as engine,
    ):
        simulator.faults.add(faults.jittered_latency(0.0, 0.03, seed=11), times=None)
        config = pipeline(simulator, database_url, "one_at_a_time")
        eof = await sync_batch(engine.address, config, SyncState(), 1)
        while eof.has_more:
            eof = await sync_batch(engine.address, config, eof.ending_state, 1)
        assert eof.status == RUN_STATUS_SUCCEEDED, eof.failure_message
        await assert_tables_equal(simulator, database_url, PLAN.counts, schema="one_at_a_time")
