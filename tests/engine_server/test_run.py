"""The chain of stages closes completely, however it ends."""

import asyncio
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import replace

import pytest

from engine_server.sync.plan.plan import SyncPlan
from engine_server.sync.run.run import run_sync
from tests.engine_server.plans import planned
from tests.engine_server.reads import given, then_blocks
from tests.engine_server.scripted import DestinationScript, SourceScript
from tests.messages import checkpoint, completed, record_batch, stream

PAGE = (record_batch("a", b"{}"), checkpoint("a", "1"))


@pytest.fixture
def source() -> SourceScript:
    return SourceScript(streams=[stream("a")], read=then_blocks(*PAGE))


@pytest.fixture(params=[False, True], ids=["reads in turn", "reads in tasks"])
def destination(request: pytest.FixtureRequest) -> DestinationScript:
    return DestinationScript(reads_in_tasks=request.param)


@pytest.fixture
def plan(source: SourceScript, destination: DestinationScript) -> Iterator[SyncPlan]:
    with planned(source, destination) as plan:
        yield plan


async def test_closing_a_sync_closes_both_connectors_and_leaves_no_task(
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


async def test_cancelling_a_sync_closes_both_connectors_and_leaves_no_task(
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


@pytest.mark.parametrize("limit", ["soft_limit", "hard_limit"])
async def test_a_limit_closes_both_connectors_and_leaves_no_task(
    plan: SyncPlan, source: SourceScript, destination: DestinationScript, limit: str
) -> None:
    before = asyncio.all_tasks()
    if limit == "hard_limit":
        plan = replace(plan, hard_limit=asyncio.get_running_loop().time() + 0.1)
    async with aclosing(run_sync(plan)) as messages:
        async for message in messages:
            if limit == "soft_limit" and message.HasField("source_state"):
                plan.soft_limit.end_now()
    assert message.eof.has_more
    assert message.eof.ending_state.source.streams == {"a": "1"}
    assert source.closed.is_set()
    assert destination.closed.is_set()
    assert asyncio.all_tasks() == before


async def test_the_state_of_a_read_request_does_not_change(
    plan: SyncPlan, source: SourceScript
) -> None:
    async with aclosing(run_sync(plan)) as messages:
        async for message in messages:
            if message.HasField("source_state"):
                break
    assert plan.state.source.streams == {"a": "1"}
    assert not source.requests[0].state.streams


async def test_connectors_that_never_wait_do_not_starve_other_tasks(
    source: SourceScript, destination: DestinationScript, plan: SyncPlan
) -> None:
    pages = 200
    source.read = given(*PAGE * pages, completed("a"))
    done = asyncio.Event()
    turns = 0

    async def other_request() -> None:
        nonlocal turns
        while not done.is_set():
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(other_request())
    async with aclosing(run_sync(plan)) as messages:
        seen = [message async for message in messages]
    done.set()
    await other
    assert len(seen) > 2 * pages
    assert turns >= pages / 2
