"""Syncs that are cut short: their response, state, and closed connectors."""

import asyncio
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from pipesync.v1.engine_service_pb2 import PipelineSyncBatchRequest, PipelineSyncRequest
from pipesync.v1.progress_pb2 import RUN_STATUS_STARTED, RUN_STATUS_SUCCEEDED
from pipesync.v1.state_pb2 import Eof
from tests.engine_server.engine import ScriptedEngine, pipeline
from tests.engine_server.reads import given, then_blocks
from tests.messages import checkpoint, completed, record_batch, started

# One page with its checkpoint; then the source blocks.
PAGE = (started("a"), record_batch("a", b'{"id": 1}'), checkpoint("a", '{"pages": 1}'))
# More than any wait here should take.
TIMEOUT_SECONDS = 5.0


def of(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(int(seconds * 1e9))
    return duration


async def blocks() -> None:
    await asyncio.Event().wait()


async def is_closed(engine: ScriptedEngine, *, within: float = 1.0) -> None:
    """Wait until both connectors of the sync are closed."""
    async with asyncio.timeout(within):
        await engine.source.closed.wait()
        await engine.destination.closed.wait()


def assert_cut_after_the_page(engine: ScriptedEngine, eof: Eof) -> None:
    """Assert that the page is committed and in the state, and that ``has_more`` is set."""
    assert engine.destination.committed == {"a": [b'{"id": 1}']}
    assert eof.ending_state.source.streams == {"a": '{"pages": 1}'}
    assert eof.has_more
    assert eof.status == RUN_STATUS_STARTED
    assert not eof.failure_message
    assert eof.run_progress.derived.total_record_count == 1
    assert engine.source.closed.is_set()
    assert engine.destination.closed.is_set()


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"soft_time_limit": of(0.1)}, id="soft limit"),
        pytest.param({"soft_time_limit": of(0.1), "time_limit": of(60)}, id="both limits"),
        pytest.param({"time_limit": of(2)}, id="time limit"),
    ],
)
async def test_a_soft_limit_ends_a_blocked_source_and_flushes_its_pages(
    engine: ScriptedEngine, options: dict[str, Any]
) -> None:
    engine.offers("a", read=then_blocks(*PAGE))
    engine.destination.commit_every = 100
    async with asyncio.timeout(TIMEOUT_SECONDS):
        eof = await engine.batch(**options)
    assert_cut_after_the_page(engine, eof)


async def test_a_batch_ends_with_an_eof_before_its_deadline(engine: ScriptedEngine) -> None:
    engine.offers("a", read=then_blocks(*PAGE))
    engine.destination.commit_every = 100
    assert_cut_after_the_page(engine, await engine.batch(timeout=3))


async def test_a_streamed_sync_ends_with_an_eof_before_its_deadline(
    engine: ScriptedEngine,
) -> None:
    engine.offers("a", read=then_blocks(*PAGE))
    engine.destination.commit_every = 100
    messages = await engine.sync(timeout=3)
    assert_cut_after_the_page(engine, messages[-1].eof)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"time_limit": of(0.2)}, id="time limit"),
        pytest.param({"time_limit": of(0.2), "soft_time_limit": of(0.1)}, id="both limits"),
        pytest.param({"time_limit": of(0.2), "soft_time_limit": of(0.2)}, id="at once"),
    ],
)
async def test_the_hard_limit_ends_a_blocked_destination(
    engine: ScriptedEngine, options: dict[str, Any]
) -> None:
    engine.offers("a", read=then_blocks(*PAGE))
    engine.destination.commit_every = 3
    engine.destination.before_commit = blocks
    async with asyncio.timeout(TIMEOUT_SECONDS):
        eof = await engine.batch(**options)
    assert eof.has_more
    assert eof.status == RUN_STATUS_STARTED
    assert not eof.failure_message
    assert not eof.ending_state.source.streams
    assert eof.run_progress.derived.total_record_count == 0
    assert engine.source.closed.is_set()
    assert engine.destination.closed.is_set()


async def test_the_hard_limit_keeps_committed_records(engine: ScriptedEngine) -> None:
    engine.offers("a", read=given(*PAGE, record_batch("a", b'{"id": 2}'), checkpoint("a", "2")))
    commits = 0

    async def blocks_after_the_page() -> None:
        nonlocal commits
        commits += 1
        if commits > len(PAGE):
            await blocks()

    engine.destination.before_commit = blocks_after_the_page
    assert_cut_after_the_page(engine, await engine.batch(time_limit=of(0.2)))


async def test_a_time_limit_that_is_not_reached_changes_nothing(engine: ScriptedEngine) -> None:
    engine.offers("a", read=given(*PAGE, completed("a")))
    eof = await engine.batch(time_limit=of(60), soft_time_limit=of(50))
    assert eof.status == RUN_STATUS_SUCCEEDED
    assert not eof.has_more


async def test_a_run_continues_after_a_time_limit(engine: ScriptedEngine) -> None:
    engine.offers("a", read=then_blocks(*PAGE))
    first = await engine.batch(run_id="r1", soft_time_limit=of(0.1))
    engine.holds({"a": [[b'{"id": 1}'], [b'{"id": 2}']]})
    second = await engine.batch(run_id="r1", state=first.ending_state)
    assert second.status == RUN_STATUS_SUCCEEDED
    assert engine.destination.committed == {"a": [b'{"id": 1}', b'{"id": 2}']}
    assert second.run_progress.derived.total_record_count == 2


async def test_a_shutdown_makes_syncs_flush_and_respond(engine: ScriptedEngine) -> None:
    engine.offers("a", read=then_blocks(*PAGE))
    engine.destination.commit_every = 100
    calls = []
    for _ in range(2):
        calls.append(asyncio.create_task(engine.batch()))
        await engine.source.reading.wait()
        engine.source.reading.clear()
    engine.servicer.request_shutdown()
    async with asyncio.timeout(TIMEOUT_SECONDS):
        ends = await asyncio.gather(*calls)
    for eof in ends:
        assert eof.has_more
        assert eof.status == RUN_STATUS_STARTED
        assert not eof.failure_message


async def test_a_sync_that_is_validated_during_a_shutdown_reads_nothing(
    engine: ScriptedEngine,
) -> None:
    discovering, may_discover = asyncio.Event(), asyncio.Event()

    async def slow_discovery() -> None:
        discovering.set()
        await may_discover.wait()

    engine.offers("a", read=then_blocks(*PAGE))
    engine.source.before_discover = slow_discovery
    call = asyncio.create_task(engine.batch())
    async with asyncio.timeout(TIMEOUT_SECONDS):
        await discovering.wait()
        engine.servicer.request_shutdown()
        may_discover.set()
        eof = await call
    assert eof.has_more
    assert not engine.source.requests


async def test_cancelling_a_batch_closes_both_connectors(engine: ScriptedEngine) -> None:
    engine.offers("a", read=then_blocks(*PAGE))
    call = asyncio.create_task(
        engine.client.pipeline_sync_batch(PipelineSyncBatchRequest(pipeline=pipeline()))
    )
    await engine.source.reading.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await is_closed(engine)


async def test_leaving_a_streamed_sync_closes_both_connectors(
    engine: ScriptedEngine,
) -> None:
    engine.offers("a", read=then_blocks(*PAGE))
    responses = engine.client.pipeline_sync(PipelineSyncRequest(pipeline=pipeline()))
    async for response in responses:
        if response.message.HasField("source_state"):
            break
    await responses.aclose()
    await is_closed(engine)


async def test_cancelling_stops_a_destination_during_a_commit(
    engine: ScriptedEngine,
) -> None:
    committing = asyncio.Event()

    async def blocks_in_commit() -> None:
        committing.set()
        await blocks()

    engine.offers("a", read=given(*PAGE))
    engine.destination.before_commit = blocks_in_commit
    call = asyncio.create_task(engine.batch())
    await committing.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await is_closed(engine)
