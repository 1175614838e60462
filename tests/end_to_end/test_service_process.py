"""A service process that is told to end in mid-sync."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from pipesync.v1.message_pb2 import Message
from pipesync.v1.pipeline_service_pb2 import PIPELINE_VIEW_FULL as FULL
from pipesync.v1.pipeline_service_pb2 import (
    GetPipelineRequest,
    ListRunsRequest,
    SyncPipelineBatchRequest,
    SyncPipelineRequest,
)
from pipesync.v1.progress_pb2 import RUN_STATUS_STARTED, RUN_STATUS_SUCCEEDED
from pipesync_client import PipelineClient
from tests.end_to_end.command import PipelinesCommand
from tests.end_to_end.held_requests import HeldRequests, after
from tests.end_to_end.tables import assert_tables_equal
from tests.processes import ServerProcess, running
from tests.stripe_simulator.seeds.plan import SeedPlan
from tests.stripe_simulator.simulator import StripeSimulator

PLAN = SeedPlan(counts={"customers": 1500, "products": 60})
CUSTOMERS = "/v1/customers"
PAGES = 6


@pytest.fixture
async def simulator() -> AsyncIterator[StripeSimulator]:
    async with StripeSimulator(PLAN) as one:
        yield one


async def test_a_terminated_service_ends_a_streamed_sync_and_another_one_goes_on(
    simulator: StripeSimulator,
    engine: ServerProcess,
    service_database_url: str,
    database_url: str,
    tmp_path: Path,
) -> None:
    def service() -> AbstractAsyncContextManager[ServerProcess]:
        return running(
            "service_server",
            *("--listen", "127.0.0.1:0", "--engine", engine.address, "--data-dir", str(tmp_path)),
            environment={"PIPESYNC_DATABASE_URL": service_database_url},
        )

    held = HeldRequests()
    simulator.faults.add(after(PAGES, held), path=CUSTOMERS, times=None)
    async with service() as first, PipelineClient(first.address) as client:
        pipelines = PipelinesCommand(
            service=first.address, simulator=simulator, database_url=database_url
        )
        created = await pipelines.create("stopped", PLAN.counts)
        assert created.exit_code == 0, created.stderr
        messages: list[Message] = []
        async for answer in client.sync_pipeline(
            SyncPipelineRequest(pipeline_id="stopped", run_id="r1")
        ):
            messages.append(answer.message)
            if answer.message.source_state.stream == "customers":
                first.terminate()
                terminated = time.monotonic()
        assert await first.wait() == 0
        assert time.monotonic() - terminated < 2
        await asyncio.wait_for(held.none.wait(), 1)
    eof = messages[-1].eof
    assert (eof.status, eof.has_more) == (RUN_STATUS_STARTED, True)

    simulator.faults.clear()
    async with service() as second, PipelineClient(second.address) as client:
        shown = (
            await client.get_pipeline(GetPipelineRequest(pipeline_id="stopped", view=FULL))
        ).pipeline
        assert shown.sync_state == eof.ending_state
        request = SyncPipelineBatchRequest(pipeline_id="stopped", run_id="r1")
        last = (await client.sync_pipeline_batch(request)).eof
        [run] = (await client.list_runs(ListRunsRequest(pipeline_id="stopped"))).runs
    assert (last.status, last.has_more) == (RUN_STATUS_SUCCEEDED, False)
    assert run.status == RUN_STATUS_SUCCEEDED
    await assert_tables_equal(simulator, database_url, PLAN.counts)
