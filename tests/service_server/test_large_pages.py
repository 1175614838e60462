"""Tests that pages of large entries fit into a response that any gRPC client accepts."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync.v1.progress_pb2 import Progress, RunStatus
from pipesync_client import PipelineClient
from pipesync_rpc.limits import MAX_MESSAGE_BYTES
from service_server.store import runs
from service_server.store.database import Database
from tests.service_server.conftest import connector, pipeline

# The largest message that gRPC clients receive by default.
DEFAULT_LIMIT = 4 * 1024 * 1024
NEARLY_1_MIB = 1024 * 1024 - 1000


async def pages(
    ask: Callable[[Any], Awaitable[Any]], request: Any, entries: str
) -> AsyncIterator[Sequence[Any]]:
    """Return the entries of every page, after a check that each page has some and is small."""
    while True:
        answer = await ask(request)
        assert answer.ByteSize() < DEFAULT_LIMIT
        found = getattr(answer, entries)
        assert found
        yield found
        if not answer.next_page_token:
            return
        request.page_token = answer.next_page_token


@pytest.fixture
async def first(client: PipelineClient) -> pb.Pipeline:
    """Return a pipeline whose source has a configuration of nearly the largest size."""
    large = pipeline("first")
    large.config.source.CopyFrom(connector(note="n" * NEARLY_1_MIB))
    created = await client.create_pipeline(
        pb.CreatePipelineRequest(pipeline=large, skip_check=True)
    )
    return created.pipeline


async def test_a_page_of_pipelines_fits_into_a_response(
    client: PipelineClient, database: Database, first: pb.Pipeline
) -> None:
    count = MAX_MESSAGE_BYTES // first.ByteSize() + 10
    async with database.connection() as connection:
        await connection.execute(
            "INSERT INTO pipesync.pipelines"
            " (id, config, sealed_config, desired_status, status, sync_policy, etag)"
            " SELECT 'p-' || lpad(n::text, 3, '0'), config, sealed_config, desired_status, status,"
            " sync_policy, etag FROM pipesync.pipelines, generate_series(2, $1) AS n",
            count,
        )
        await connection.execute(
            "INSERT INTO pipesync.pipelines"
            " (id, config, sealed_config, desired_status, status, sync_policy, etag)"
            " SELECT 's-' || n, '{}', '', 1, 1, 1, 'e' FROM generate_series(1, 9) AS n",
        )
    request = pb.ListPipelinesRequest(page_size=1000)
    found = [page async for page in pages(client.list_pipelines, request, "pipelines")]
    names = [one.id for page in found for one in page]
    assert names == [
        "first",
        *(f"p-{number:03}" for number in range(2, count + 1)),
        *(f"s-{number}" for number in range(1, 10)),
    ]
    assert [len(page) for page in found[:3]] == [3, 3, 3]
    # Small entries fill the page.
    assert len(found[-1]) >= 9
    assert found[0][0] == first


async def test_an_oversized_entry_has_its_own_page(
    client: PipelineClient, database: Database, first: pb.Pipeline
) -> None:
    async with database.connection() as connection:
        await connection.execute(
            "UPDATE pipesync.pipelines SET sealed_config = decode(repeat('00', 4000000), 'hex')"
        )
    await client.create_pipeline(
        pb.CreatePipelineRequest(pipeline=pipeline("second"), skip_check=True)
    )
    request = pb.ListPipelinesRequest()
    found = [page async for page in pages(client.list_pipelines, request, "pipelines")]
    assert [[one.id for one in page] for page in found] == [["first"], ["second"]]


async def test_a_page_of_runs_fits_into_a_response(
    client: PipelineClient, database: Database, created: pb.Pipeline
) -> None:
    progress = Progress()
    progress.connection_status.message = "m" * NEARLY_1_MIB
    # Old runs are pruned meanwhile.
    now = datetime.now(UTC)
    async with database.connection() as connection:
        for number in range(7):
            run = pb.Run(pipeline_id=created.id, run_id=f"run-{number}", progress=progress)
            run.status = RunStatus.RUN_STATUS_FAILED
            run.start_time.FromDatetime(now + timedelta(seconds=number))
            await runs.put(connection, run)
    request = pb.ListRunsRequest(pipeline_id=created.id, page_size=6)
    found = [page async for page in pages(client.list_runs, request, "runs")]
    assert [[one.run_id for one in page] for page in found] == [
        ["run-6", "run-5", "run-4"],
        ["run-3", "run-2", "run-1"],
        ["run-0"],
    ]
    listed = await client.list_pipelines(pb.ListPipelinesRequest())
    assert listed.pipelines[0].progress == progress


async def test_a_page_of_events_fits_into_a_response(
    client: PipelineClient, database: Database, created: pb.Pipeline
) -> None:
    async with database.connection() as connection:
        await connection.execute(
            "INSERT INTO pipesync.webhook_events"
            " (pipeline_id, event_id, arrival, event_type, create_time, status, last_error, event)"
            " SELECT $1, 'evt_' || n, n, 'customer.updated', now(), 3, repeat('€', 100000), ''"
            " FROM generate_series(1, 1000) AS n",
            created.id,
        )
    request = pb.ListWebhookEventsRequest(pipeline_id=created.id, page_size=1000)
    found = [page async for page in pages(client.list_webhook_events, request, "events")]
    assert [one.id for page in found for one in page] == [f"evt_{n}" for n in range(1000, 0, -1)]
    assert len(found) == 4
    assert found[0][0].last_error == "€" * 4096
