"""The chain of stages by itself: that it closes whole, whoever ends it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from engine_server.pipeline import ResolvedDestination, ResolvedSource
from engine_server.run import SyncPlan, run_sync
from engine_server.stages.time_limit import TimeLimit
from engine_server.state import begin_run
from pipesync.v1.engine_service_pb2 import SyncOptions
from tests.engine_server.scripted import (
    DestinationScript,
    ScriptedConfig,
    ScriptedDestination,
    ScriptedSource,
    SourceScript,
    destination_scripts,
    source_scripts,
    then_blocks,
)
from tests.messages import checkpoint, record_batch, selected

PAGE = (record_batch("a", b"{}"), checkpoint("a", "1"))


@pytest.fixture
def source() -> SourceScript:
    return SourceScript(read=then_blocks(*PAGE))


@pytest.fixture
def destination() -> DestinationScript:
    return DestinationScript()


@pytest.fixture
async def plan(source: SourceScript, destination: DestinationScript) -> AsyncIterator[SyncPlan]:
    config = ScriptedConfig(script="a run")
    source_scripts["a run"], destination_scripts["a run"] = source, destination
    yield SyncPlan(
        source=ResolvedSource(type="scripted", connector=ScriptedSource(), config=config),
        destination=ResolvedDestination(
            type="scripted", connector=ScriptedDestination(), config=config
        ),
        streams=[selected("a")],
        state=begin_run(SyncOptions(), 0),
        state_limit=None,
        soft_limit=TimeLimit(None),
        hard_limit=TimeLimit(None),
    )
    del source_scripts["a run"], destination_scripts["a run"]


async def test_closing_it_closes_both_connectors_and_leaves_no_task(
    plan: SyncPlan, source: SourceScript, destination: DestinationScript
) -> None:
    before = asyncio.all_tasks()
    async with aclosing(run_sync(plan)) as messages:
        async for message in messages:
            if message.HasField("source_state"):
                break
    assert source.closed.is_set()
    assert destination.closed.is_set()
    assert asyncio.all_tasks() == before


async def test_cancelling_it_closes_both_connectors_and_leaves_no_task(
    plan: SyncPlan, source: SourceScript, destination: DestinationScript
) -> None:
    before = asyncio.all_tasks()
    committed = asyncio.Event()

    async def consume() -> None:
        async with aclosing(run_sync(plan)) as messages:
            async for message in messages:
                if message.HasField("source_state"):
                    committed.set()

    consuming = asyncio.create_task(consume())
    await committed.wait()
    consuming.cancel()
    with pytest.raises(asyncio.CancelledError):
        await consuming
    assert source.closed.is_set()
    assert destination.closed.is_set()
    assert asyncio.all_tasks() == before


async def test_a_limit_closes_both_connectors_and_leaves_no_task(
    plan: SyncPlan, source: SourceScript, destination: DestinationScript
) -> None:
    before = asyncio.all_tasks()
    async with aclosing(run_sync(plan)) as messages:
        async for message in messages:
            if message.HasField("source_state"):
                plan.hard_limit.end_now()
    assert message.eof.has_more
    assert message.eof.ending_state.source.streams == {"a": "1"}
    assert source.closed.is_set()
    assert destination.closed.is_set()
    assert asyncio.all_tasks() == before


async def test_the_state_that_a_source_was_given_does_not_change_under_it(
    plan: SyncPlan, source: SourceScript
) -> None:
    async with aclosing(run_sync(plan)) as messages:
        async for message in messages:
            if message.HasField("source_state"):
                break
    assert plan.state.source.streams == {"a": "1"}
    assert not source.requests[0].state.streams
