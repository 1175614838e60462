"""Limits about as long as a page takes: pages read in time are committed, and every loop ends."""

from collections.abc import AsyncIterator

import pytest

from pipesync.v1.progress_pb2 import RUN_STATUS_FAILED, RUN_STATUS_STARTED, RUN_STATUS_SUCCEEDED
from pipesync.v1.state_pb2 import Eof, SyncState
from pipesync_client import EngineClient
from tests.end_to_end.held_requests import HeldRequests
from tests.end_to_end.stripe_pipeline import (
    RPCS,
    Rpc,
    StripePipeline,
    seconds,
    selections,
    served_engine,
)
from tests.end_to_end.tables import assert_tables_equal
from tests.stripe_simulator import faults
from tests.stripe_simulator.seeds.plan import SeedPlan
from tests.stripe_simulator.simulator import StripeSimulator

PLAN = SeedPlan(counts={"customers": 400, "products": 60})
CALLS = 8

BOTH_RPCS = pytest.mark.parametrize("rpc", RPCS)


@pytest.fixture
async def pipeline(database_url: str) -> AsyncIterator[StripePipeline]:
    async with StripeSimulator(PLAN) as simulator:
        yield StripePipeline(
            simulator=simulator, database_url=database_url, streams=selections(*PLAN.counts)
        )


@pytest.fixture
async def client() -> AsyncIterator[EngineClient]:
    async with served_engine() as engine:
        yield engine


def hold_pages(pipeline: StripePipeline) -> None:
    """Answer no list any more."""
    for stream in PLAN.counts:
        pipeline.simulator.faults.add(HeldRequests(), path=f"/v1/{stream}", times=None)


async def calls(
    pipeline: StripePipeline, client: EngineClient, rpc: Rpc, count: int, run_id: str
) -> list[Eof]:
    """Make calls with a limit of 0.2 s, each with the last one's state, and return their Eofs."""
    state, ends = SyncState(), []
    for _ in range(count):
        ends.append(
            await pipeline.sync(client, rpc, state=state, run_id=run_id, time_limit=seconds(0.2))
        )
        state = ends[-1].ending_state
    return ends


@BOTH_RPCS
async def test_a_first_page_that_takes_part_of_a_short_limit_is_committed(
    pipeline: StripePipeline, client: EngineClient, rpc: Rpc
) -> None:
    slow = faults.first_on_each_connection(faults.latency(0.3))
    pipeline.simulator.faults.add(slow, path="/v1/*", times=None)
    state, committed = SyncState(), 0
    for _ in range(CALLS):
        eof = await pipeline.sync(client, rpc, state=state, run_id="r1", time_limit=seconds(1.5))
        state = eof.ending_state
        committed += eof.request_progress.derived.total_record_count
    assert committed
    for stream in PLAN.counts:
        accounted = pipeline.accounted_ids(state, stream)
        assert accounted <= await pipeline.ids(stream)
    pipeline.simulator.faults.clear()
    ends = await pipeline.sync_to_the_end(client, rpc, state=state, run_id="r1")
    assert ends[-1].status == RUN_STATUS_SUCCEEDED, ends[-1].failure_message
    await assert_tables_equal(pipeline.simulator, pipeline.database_url, PLAN.counts)


@BOTH_RPCS
@pytest.mark.parametrize("run_id", ["", "r1"], ids=["no run id", "a run id"])
async def test_a_loop_whose_limit_is_shorter_than_a_page_ends_with_the_third_call(
    pipeline: StripePipeline, client: EngineClient, rpc: Rpc, run_id: str
) -> None:
    hold_pages(pipeline)
    first, second, third = await calls(pipeline, client, rpc, 3, run_id)
    for eof in (first, second):
        assert eof.status == RUN_STATUS_STARTED
        assert eof.has_more
        assert not eof.failure_message
        assert "time_limit of 0.2 s" in eof.limit_message
        assert "no page arrived" in eof.limit_message
    assert third.status == RUN_STATUS_FAILED
    assert not third.has_more
    assert third.failure_message.startswith("3 requests in a row")
    assert third.limit_message in third.failure_message


@BOTH_RPCS
@pytest.mark.parametrize("run_id", ["", "r1"], ids=["no run id", "a run id"])
async def test_a_call_after_a_loop_that_failed_counts_anew_and_comes_to_the_end(
    pipeline: StripePipeline, client: EngineClient, rpc: Rpc, run_id: str
) -> None:
    hold_pages(pipeline)
    fourth = (await calls(pipeline, client, rpc, 4, run_id))[-1]
    assert fourth.has_more
    assert fourth.limit_message
    pipeline.simulator.faults.clear()
    ends = await pipeline.sync_to_the_end(client, rpc, state=fourth.ending_state, run_id=run_id)
    assert ends[-1].status == RUN_STATUS_SUCCEEDED, ends[-1].failure_message
    assert not ends[-1].ending_state.sync_run.empty_request_count
    await assert_tables_equal(pipeline.simulator, pipeline.database_url, PLAN.counts)


@BOTH_RPCS
async def test_a_run_that_reconciles_ends_the_same_way_and_goes_on_where_it_was(
    pipeline: StripePipeline, client: EngineClient, rpc: Rpc
) -> None:
    begun = await pipeline.sync(client, rpc, run_id="r1", reconcile=True, state_limit=2)
    assert begun.has_more
    hold_pages(pipeline)
    ends = await pipeline.sync_to_the_end(
        client, rpc, state=begun.ending_state, run_id="r1", time_limit=seconds(0.2)
    )
    state = ends[-1].ending_state
    assert ends[-1].status == RUN_STATUS_FAILED
    # Before these, a stream whose pages were all read may be reported as completed.
    assert all(eof.limit_message for eof in ends[-3:])
    assert state.sync_run.reconcile
    assert state.source == begun.ending_state.source
    pipeline.simulator.faults.clear()
    ends = await pipeline.sync_to_the_end(client, rpc, state=state, run_id="r1")
    assert ends[-1].status == RUN_STATUS_SUCCEEDED, ends[-1].failure_message
    await assert_tables_equal(pipeline.simulator, pipeline.database_url, PLAN.counts)
