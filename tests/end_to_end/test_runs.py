"""Runs made of many requests: which continue, which begin anew, and which pages are read again."""

import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from pipesync.v1.catalog_pb2 import StreamSelection
from pipesync.v1.progress_pb2 import (
    RUN_STATUS_STARTED,
    RUN_STATUS_SUCCEEDED,
    RowCounts,
    StreamProgress,
)
from pipesync.v1.state_pb2 import SyncRun, SyncState
from pipesync_client import EngineClient
from tests.end_to_end.stripe_pipeline import (
    RPCS,
    Rpc,
    StripePipeline,
    selections,
    served_engine,
)
from tests.end_to_end.tables import assert_tables_equal
from tests.stripe_simulator import errors, faults
from tests.stripe_simulator.seeds.plan import SeedPlan
from tests.stripe_simulator.simulator import StripeSimulator

# Few enough pages that no range of them is worth splitting; payment methods have no filter by time,
# and there are no coupons.
PLAN = SeedPlan(counts={"customers": 260, "products": 90, "payment_methods": 120, "coupons": 0})
CUSTOMERS = "/v1/customers"

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


async def assert_all_rows_arrived(pipeline: StripePipeline) -> None:
    await assert_tables_equal(
        pipeline.simulator, pipeline.database_url, PLAN.counts, schema=pipeline.schema
    )


def ceiling(seconds: int) -> Timestamp:
    return Timestamp(seconds=seconds)


@BOTH_RPCS
async def test_a_limit_of_one_is_looped_to_the_end(
    pipeline: StripePipeline, client: EngineClient, rpc: Rpc
) -> None:
    ends = await pipeline.sync_to_the_end(client, rpc, run_id="r1", state_limit=1)
    for number, eof in enumerate(ends[:-1], start=1):
        assert eof.request_progress.derived.total_state_count == 1
        assert eof.run_progress.derived.total_state_count == number
        assert eof.status in (RUN_STATUS_STARTED, RUN_STATUS_SUCCEEDED)
    assert ends[-1].status == RUN_STATUS_SUCCEEDED
    assert ends[-1].run_progress.derived.total_record_count == sum(PLAN.counts.values())
    await assert_all_rows_arrived(pipeline)


@BOTH_RPCS
async def test_a_limit_equal_to_the_number_of_checkpoints_ends_with_everything(
    pipeline: StripePipeline, client: EngineClient, rpc: Rpc
) -> None:
    whole = await pipeline.in_schema("whole").sync(client, rpc)
    assert not whole.has_more
    checkpoints = whole.run_progress.derived.total_state_count
    first = await pipeline.sync(client, rpc, run_id="r1", state_limit=checkpoints)
    assert first.has_more
    assert first.run_progress.derived.total_state_count == checkpoints
    await assert_all_rows_arrived(pipeline)
    pipeline.simulator.requests.clear()
    second = await pipeline.sync(client, rpc, run_id="r1", state=first.ending_state)
    assert (second.status, second.has_more) == (RUN_STATUS_SUCCEEDED, False)
    assert len(pipeline.simulator.requests) == 0
    for stream in PLAN.counts:
        assert second.run_progress.streams[stream].status == StreamProgress.STATUS_COMPLETED


@BOTH_RPCS
async def test_a_finished_run_continued_asks_stripe_for_nothing(
    pipeline: StripePipeline, client: EngineClient, rpc: Rpc
) -> None:
    finished = await pipeline.sync(client, rpc, run_id="r1")
    pipeline.simulator.requests.clear()
    again = await pipeline.sync(client, rpc, run_id="r1", state=finished.ending_state)
    assert len(pipeline.simulator.requests) == 0
    assert (again.status, again.has_more) == (RUN_STATUS_SUCCEEDED, False)
    assert again.ending_state.source == finished.ending_state.source
    assert again.run_progress.streams == finished.run_progress.streams
    assert not again.request_progress.streams


@BOTH_RPCS
async def test_complete_streams_complete_a_new_run_without_a_page(
    pipeline: StripePipeline, client: EngineClient, rpc: Rpc
) -> None:
    past = StreamSelection(name="customers")
    past.time_range.lt.seconds = PLAN.created_until
    pipeline = pipeline.selecting(past)
    finished = await pipeline.sync(client, rpc, run_id="r1")
    pipeline.simulator.requests.clear()
    eof = await pipeline.sync(client, rpc, run_id="r2", state=finished.ending_state)
    assert len(pipeline.simulator.requests) == 0
    assert eof.status == RUN_STATUS_SUCCEEDED
    assert eof.run_progress.derived.total_record_count == 0
    assert eof.ending_state.source == finished.ending_state.source


@BOTH_RPCS
async def test_a_new_run_reads_what_is_new_in_a_list_without_a_time_filter(
    pipeline: StripePipeline, client: EngineClient, rpc: Rpc
) -> None:
    pipeline = pipeline.selecting(StreamSelection(name="payment_methods"))
    methods = pipeline.simulator.objects("payment_methods")
    now = int(time.time())
    for number in range(250):
        methods.put({"id": f"pm_{number}", "created": now - 5_000 + number})
    began = SyncState(sync_run=SyncRun(run_id="r1", time_ceiling=ceiling(now - 600)))
    finished = await pipeline.sync(client, rpc, run_id="r1", state=began)
    methods.put({"id": "pm_new", "created": now - 300})
    pipeline.simulator.requests.clear()
    eof = await pipeline.sync(client, rpc, run_id="r2", state=finished.ending_state)
    assert eof.run_progress.derived.total_record_count == 1
    assert len(pipeline.simulator.requests.of("/v1/payment_methods")) == 1


def customer(object_id: str, created: int, **fields: Any) -> dict[str, Any]:
    return {"id": object_id, "object": "customer", "created": created, **fields}


async def test_a_runs_ceiling_stays_and_the_next_run_reads_what_came_after_it(
    pipeline: StripePipeline, client: EngineClient
) -> None:
    now = int(time.time())
    customers = pipeline.simulator.objects("customers")
    customers.put(customer("cus_before", now - 1000))
    # A run that began ten minutes ago.
    began = SyncState(sync_run=SyncRun(run_id="r1", time_ceiling=ceiling(now - 600)))
    eof = await pipeline.sync(client, run_id="r1", state=began, state_limit=1)
    assert eof.has_more
    customers.put(customer("cus_after", now - 300))
    ends = await pipeline.sync_to_the_end(
        client, state=eof.ending_state, run_id="r1", state_limit=1
    )
    assert {eof.ending_state.sync_run.time_ceiling.seconds for eof in ends} == {now - 600}
    assert ends[-1].status == RUN_STATUS_SUCCEEDED
    arrived = await pipeline.ids("customers")
    assert "cus_before" in arrived
    assert "cus_after" not in arrived

    pipeline.simulator.requests.clear()
    following = await pipeline.sync(client, state=ends[-1].ending_state, run_id="r2")
    assert following.ending_state.sync_run.time_ceiling.seconds >= now
    assert following.run_progress.streams["customers"].record_count == 1
    assert len(pipeline.simulator.requests.of(CUSTOMERS)) <= 2
    await assert_all_rows_arrived(pipeline)


async def test_without_a_run_id_each_finished_request_is_followed_by_one_that_reads_up_to_now(
    pipeline: StripePipeline, client: EngineClient
) -> None:
    now = int(time.time())
    # The state left by a request that was cut short ten minutes ago.
    began = SyncState(sync_run=SyncRun(time_ceiling=ceiling(now - 600)))
    first = await pipeline.sync(client, state=began)
    assert first.status == RUN_STATUS_SUCCEEDED
    assert not first.ending_state.sync_run.HasField("time_ceiling")
    pipeline.simulator.objects("customers").put(customer("cus_after", now - 300))
    second = await pipeline.sync(client, state=first.ending_state)
    # Progress starts over; the checkpoints do not.
    assert second.run_progress.streams["customers"].record_count == 1
    assert second.status == RUN_STATUS_SUCCEEDED
    await assert_all_rows_arrived(pipeline)


@pytest.mark.parametrize("earlier", ["", "r1"], ids=["of no run", "of another run"])
async def test_a_new_run_keeps_checkpoints_and_starts_progress_over(
    pipeline: StripePipeline, client: EngineClient, earlier: str
) -> None:
    before = int(time.time())
    first = await pipeline.sync(client, run_id=earlier, state_limit=2)
    assert first.ending_state.sync_run.time_ceiling.seconds > before
    read = first.run_progress.derived.total_record_count
    assert read > 0
    ends = await pipeline.sync_to_the_end(client, state=first.ending_state, run_id="r2")
    run = ends[-1].ending_state.sync_run
    assert run.run_id == "r2"
    assert run.time_ceiling.seconds >= first.ending_state.sync_run.time_ceiling.seconds
    # Objects that were read before are neither read nor counted again.
    assert ends[-1].run_progress.derived.total_record_count == sum(PLAN.counts.values()) - read
    await assert_all_rows_arrived(pipeline)


async def test_a_continuation_keeps_progress_and_messages_of_earlier_requests(
    pipeline: StripePipeline, client: EngineClient
) -> None:
    denied = "This account has no coupons."
    pipeline.simulator.faults.add(
        faults.refuse(errors.permission_denied(denied)), path="/v1/coupons", times=None
    )
    ends = await pipeline.sync_to_the_end(client, run_id="r1", state_limit=2)
    assert len(ends) > 2
    started_at = {eof.run_progress.started_at.ToNanoseconds() for eof in ends}
    assert len(started_at) == 1
    totals = [eof.run_progress.derived.total_record_count for eof in ends]
    assert totals == sorted(totals)
    requests = sum(eof.request_progress.derived.total_record_count for eof in ends)
    assert requests == totals[-1] == sum(PLAN.counts.values())
    coupons = ends[-1].run_progress.streams["coupons"]
    assert coupons.status == StreamProgress.STATUS_SKIPPED
    assert denied in coupons.message
    assert ends[-1].status == RUN_STATUS_SUCCEEDED


async def test_a_stream_that_is_no_longer_selected_keeps_its_checkpoint(
    pipeline: StripePipeline, client: EngineClient
) -> None:
    first = await pipeline.sync(client, run_id="r1")
    fewer = pipeline.selecting(*selections("products"))
    second = await fewer.sync(client, state=first.ending_state, run_id="r2")
    assert set(second.run_progress.streams) == {"products"}
    before, kept = first.ending_state.source.streams, second.ending_state.source.streams
    assert set(kept) == set(PLAN.counts)
    assert {name: kept[name] for name in kept if name != "products"} == {
        name: before[name] for name in before if name != "products"
    }


def newest(pipeline: StripePipeline, count: int) -> set[str]:
    documents = list(pipeline.simulator.objects("customers").documents())
    return {document["id"] for document in documents[-count:]}


async def test_a_backfill_limit_is_exact_and_raised_it_goes_on(
    pipeline: StripePipeline, client: EngineClient
) -> None:
    limited = pipeline.selecting(StreamSelection(name="customers", backfill_limit=130))
    first = await limited.sync(client, run_id="r1")
    assert first.status == RUN_STATUS_SUCCEEDED
    assert await limited.ids("customers") == newest(limited, 130)
    assert json.loads(first.ending_state.source.streams["customers"])["remaining"]

    raised = pipeline.selecting(StreamSelection(name="customers", backfill_limit=205))
    second = await raised.sync(client, run_id="r2", state=first.ending_state)
    assert second.run_progress.streams["customers"].record_count == 75
    assert await raised.ids("customers") == newest(raised, 205)

    whole = pipeline.selecting(*selections("customers"))
    third = await whole.sync(client, run_id="r3", state=second.ending_state)
    assert third.run_progress.streams["customers"].record_count == 260 - 205
    assert await whole.ids("customers") == newest(whole, 260)


@BOTH_RPCS
async def test_progress_counts_the_rows_of_the_tables(
    pipeline: StripePipeline, client: EngineClient, rpc: Rpc
) -> None:
    # A ceiling that is past when the first page is requested, however long its answer takes.
    began = SyncState(sync_run=SyncRun(run_id="r1", time_ceiling=ceiling(int(time.time()) - 60)))
    ends = await pipeline.sync_to_the_end(client, rpc, run_id="r1", state_limit=2, state=began)
    for eof in ends:
        assert eof.ending_state.sync_run.progress == eof.run_progress
    progress = ends[-1].run_progress
    for stream in PLAN.counts:
        count = progress.streams[stream].record_count
        assert count == len(await pipeline.ids(stream))
        assert progress.streams[stream].rows == RowCounts(inserted=count)
    assert progress.derived.total_rows == RowCounts(inserted=sum(PLAN.counts.values()))
    again = await pipeline.sync(client, rpc)
    for stream, count in PLAN.counts.items():
        assert again.run_progress.streams[stream].rows == RowCounts(unchanged=count)
    # However many pages were read, they make up one range, and the whole.
    customers = progress.streams["customers"]
    assert list(customers.completed_ranges) == [customers.total_range]


async def test_the_last_progress_agrees_with_the_eof(
    pipeline: StripePipeline, client: EngineClient
) -> None:
    for options in ({"state_limit": 3}, {}):
        *_, progress, eof = await pipeline.messages(client, run_id="r1", **options)
        assert progress.progress == eof.eof.run_progress
