"""An engine process that is told to end, or whose caller leaves, in mid-sync."""

import asyncio
import time
from collections.abc import AsyncIterator

import asyncpg
import pytest

from pipesync.v1.progress_pb2 import RUN_STATUS_STARTED, RUN_STATUS_SUCCEEDED
from pipesync_client import EngineClient
from tests.end_to_end.held_requests import HeldRequests, after
from tests.end_to_end.stripe_pipeline import RPCS, Rpc, StripePipeline, selections
from tests.end_to_end.tables import assert_tables_equal
from tests.engine_server.connectors.postgres.sessions import until
from tests.processes import ServerProcess, running
from tests.stripe_simulator.seeds.plan import SeedPlan
from tests.stripe_simulator.simulator import StripeSimulator

PLAN = SeedPlan(counts={"customers": 1500, "products": 60})
CUSTOMERS = "/v1/customers"
PAGES = 6


@pytest.fixture
async def pipeline(database_url: str) -> AsyncIterator[StripePipeline]:
    async with StripeSimulator(PLAN) as simulator:
        yield StripePipeline(
            simulator=simulator, database_url=database_url, streams=selections(*PLAN.counts)
        )


@pytest.fixture
def held(pipeline: StripePipeline) -> HeldRequests:
    """Answer a few pages of customers, and no more."""
    held = HeldRequests()
    pipeline.simulator.faults.add(after(PAGES, held), path=CUSTOMERS, times=None)
    return held


async def test_a_terminated_engine_answers_every_sync_and_another_one_goes_on(
    pipeline: StripePipeline, held: HeldRequests, engine: ServerProcess
) -> None:
    async with EngineClient(engine.address) as client:
        calls = [
            asyncio.create_task(pipeline.in_schema(rpc.lower()).sync(client, rpc, run_id=rpc))
            for rpc in RPCS
        ]
        await pipeline.simulator.requests.wait_for(CUSTOMERS, PAGES + 2)
        await engine.wait_for("flush_committed")
        engine.terminate()
        ends = await asyncio.gather(*calls)
        assert await engine.wait() == 0
    assert held.none.is_set()
    pages = sum(eof.run_progress.streams["customers"].state_count for eof in ends)
    assert pages == PAGES

    pipeline.simulator.faults.clear()
    async with (
        running("engine_server", "--listen", "127.0.0.1:0") as another,
        EngineClient(another.address) as client,
    ):
        for rpc, eof in zip(RPCS, ends, strict=True):
            assert eof.has_more
            assert eof.status == RUN_STATUS_STARTED
            assert not eof.failure_message
            mine = pipeline.in_schema(rpc.lower())
            for stream in PLAN.counts:
                arrived = await mine.ids(stream)
                assert mine.accounted_ids(eof.ending_state, stream) == arrived
                assert eof.run_progress.streams[stream].record_count == len(arrived)
            last = (await mine.sync_to_the_end(client, rpc, state=eof.ending_state, run_id=rpc))[-1]
            assert last.status == RUN_STATUS_SUCCEEDED, last.failure_message
            await assert_tables_equal(
                mine.simulator, mine.database_url, PLAN.counts, schema=mine.schema
            )
    assert engine.errors == []


@pytest.mark.parametrize("rpc", RPCS)
async def test_an_engine_whose_caller_leaves_closes_both_sides_and_serves_on(
    pipeline: StripePipeline,
    held: HeldRequests,
    engine: ServerProcess,
    database_url: str,
    rpc: Rpc,
) -> None:
    database = await asyncpg.connect(database_url)
    async with EngineClient(engine.address) as client:
        call = asyncio.create_task(pipeline.sync(client, rpc))
        await held.begun.wait()
        await engine.wait_for("flush_committed")
        began = time.monotonic()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await held.none.wait()
        await until(
            database,
            "SELECT count(*) = 0 FROM pg_stat_activity "
            # Connections are kept for the next caller, with nothing open.
            "WHERE datname = current_database() AND application_name = 'pipesync' "
            "AND state IS DISTINCT FROM 'idle'",
        )
        assert time.monotonic() - began < 1.0
        pipeline.simulator.faults.clear()
        ends = await pipeline.sync_to_the_end(client, rpc)
    await database.close()
    assert ends[-1].status == RUN_STATUS_SUCCEEDED
    await assert_tables_equal(pipeline.simulator, database_url, PLAN.counts)
