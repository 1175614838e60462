"""Requests that a time limit ends before anything is committed."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from engine_server.connectors.protocols import Messages, ReadRequest
from engine_server.stages import pacing
from engine_server.stages.time_limit import TimeLimit
from engine_server.sync.run.run import run_sync
from pipesync.v1.engine_service_pb2 import SyncOptions
from pipesync.v1.message_pb2 import Message, SourceInput
from pipesync.v1.progress_pb2 import RUN_STATUS_FAILED, RUN_STATUS_STARTED, RUN_STATUS_SUCCEEDED
from pipesync.v1.state_pb2 import Eof, SyncState
from tests.engine_server.engine import ScriptedEngine
from tests.engine_server.plans import planned
from tests.engine_server.reads import given, then_blocks
from tests.engine_server.scripted import DestinationScript, SourceScript
from tests.messages import (
    checkpoint,
    completed,
    global_checkpoint,
    record_batch,
    skipped,
    started,
    stream,
)

PAGE = (started("a"), record_batch("a", b'{"id": 1}'), checkpoint("a", '{"pages": 1}'))
# The position of the state that the request resumes from.
OLD_STATE = SyncState()
OLD_STATE.source.streams["a"] = '{"pages": 1}'
OLD_STATE.source.shared = '{"cursor": 1}'


def of(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(int(seconds * 1e9))
    return duration


SHORT = of(0.05)


def reach(limit: TimeLimit) -> None:
    """Move the limit to the past, as if the clock had reached it."""
    limit.bring_forward(asyncio.get_running_loop().time())


async def blocks() -> None:
    await asyncio.Event().wait()


def counted(eof: Eof) -> int:
    return eof.ending_state.sync_run.empty_request_count


def assert_empty(eof: Eof, *, count: int) -> None:
    """Assert that a limit ended the request before anything was committed."""
    assert eof.has_more
    assert eof.status == RUN_STATUS_STARTED
    assert not eof.failure_message
    assert eof.limit_message
    assert counted(eof) == count


def assert_last(eof: Eof) -> None:
    """Assert that the request failed as the third empty one."""
    assert not eof.has_more
    assert eof.status == RUN_STATUS_FAILED
    assert eof.failure_message.startswith("3 requests in a row")
    assert eof.limit_message in eof.failure_message
    assert counted(eof) == 0


@pytest.mark.parametrize("run_id", ["", "r1"], ids=["no run id", "a run id"])
@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"time_limit": SHORT}, "time_limit of 0.05 s"),
        ({"soft_time_limit": SHORT}, "soft_time_limit of 0.05 s"),
        ({"soft_time_limit": SHORT, "time_limit": of(9)}, "soft_time_limit of 0.05 s and the time"),
        ({"soft_time_limit": of(9), "time_limit": SHORT}, "time_limit of 0.05 s"),
    ],
    ids=["time limit", "soft limit", "soft limit first", "time limit first"],
)
async def test_the_third_empty_request_fails_and_the_count_starts_again(
    engine: ScriptedEngine, run_id: str, options: dict[str, Any], named: str
) -> None:
    engine.offers("a", read=then_blocks(started("a")))
    first, second, third = await engine.loop(run_id=run_id, **options)
    assert_empty(first, count=1)
    assert_empty(second, count=2)
    assert_last(third)
    for eof in (first, second, third):
        assert named in eof.limit_message
        assert "no page arrived" in eof.limit_message
    later = await engine.batch(state=third.ending_state, run_id=run_id, **options)
    assert_empty(later, count=1)
    engine.offers("a", read=given(*PAGE, completed("a")))
    eof = await engine.batch(state=later.ending_state, run_id=run_id)
    assert eof.status == RUN_STATUS_SUCCEEDED
    assert counted(eof) == 0


async def test_streamed_syncs_are_counted_as_well(engine: ScriptedEngine) -> None:
    engine.offers("a", read=then_blocks(started("a")))
    state = SyncState()
    for count in (1, 2):
        eof = (await engine.sync(state=state, time_limit=SHORT))[-1].eof
        assert_empty(eof, count=count)
        state = eof.ending_state
    assert_last((await engine.sync(state=state, time_limit=SHORT))[-1].eof)


async def test_a_page_that_is_not_committed_leaves_the_request_empty(
    engine: ScriptedEngine,
) -> None:
    engine.offers("a", read=then_blocks(*PAGE))
    engine.destination.before_commit = blocks
    ends = await engine.loop(time_limit=of(0.2))
    assert [counted(eof) for eof in ends] == [1, 2, 0]
    assert_last(ends[-1])


@pytest.mark.parametrize(
    "committed",
    [
        pytest.param([record_batch("a", b"{}")], id="a record"),
        pytest.param([checkpoint("a", "2")], id="a checkpoint"),
        pytest.param([global_checkpoint("2")], id="a checkpoint of all streams"),
        pytest.param([skipped("b", "not yours")], id="the end of a stream"),
    ],
)
async def test_any_commit_resets_the_count(committed: list[Message]) -> None:
    source = SourceScript(
        streams=[stream("a"), stream("b")], read=then_blocks(started("a"), *committed)
    )
    with planned(source, DestinationScript(), SyncOptions(run_id="r1")) as plan:
        plan.state.sync_run.empty_request_count = 2
        async for message in run_sync(plan):
            if message.WhichOneof("payload") == committed[0].WhichOneof("payload"):
                reach(plan.soft_limit)
    assert message.eof.has_more
    assert not message.eof.limit_message
    assert counted(message.eof) == 0


async def test_an_unchanged_checkpoint_leaves_the_request_empty(
    engine: ScriptedEngine,
) -> None:
    again = [started("a"), checkpoint("a", '{"pages": 1}'), global_checkpoint('{"cursor": 1}')]
    engine.offers("a", read=then_blocks(*again))
    ends = await engine.loop(state=OLD_STATE, soft_time_limit=SHORT)
    assert len(ends) == 3
    assert_last(ends[-1])
    assert ends[-1].ending_state.source == OLD_STATE.source


async def test_a_new_run_starts_its_own_count(engine: ScriptedEngine) -> None:
    engine.offers("a", read=then_blocks(started("a")))
    state = SyncState()
    for run_id in ("r1", "r2", "r3", "r4"):
        eof = await engine.batch(run_id=run_id, state=state, time_limit=SHORT)
        assert_empty(eof, count=1)
        state = eof.ending_state


@pytest.mark.parametrize(
    "beside", [{"events_only": True}, {"inputs": True}], ids=["events", "inputs"]
)
async def test_empty_requests_outside_a_run_are_counted_as_well(
    engine: ScriptedEngine, beside: dict[str, bool]
) -> None:
    with planned(
        SourceScript(streams=[stream("a")], read=then_blocks()), DestinationScript()
    ) as plan:
        plan.state.sync_run.run_id = "another"
        run = plan.state.sync_run.__deepcopy__()
        inputs = [SourceInput(event_json=b"{}")] if "inputs" in beside else []
        ends = []
        for _ in range(3):
            limit = TimeLimit(asyncio.get_running_loop().time() + 0.02)
            one = replace(
                plan, soft_limit=limit, events_only=not inputs, inputs=inputs, state=plan.state
            )
            ends.append([message async for message in run_sync(one)][-1].eof)
            plan.state.CopyFrom(ends[-1].ending_state)
    assert [eof.has_more for eof in ends] == [True, True, False]
    assert_last(ends[-1])
    # Apart from the count, the run is unchanged.
    assert ends[-1].ending_state.sync_run == run


async def test_a_shutdown_is_not_a_limit(engine: ScriptedEngine) -> None:
    engine.offers("a", read=then_blocks(started("a")))
    before = await engine.batch(run_id="r1", time_limit=SHORT)
    call = asyncio.create_task(engine.batch(run_id="r1", state=before.ending_state))
    engine.source.reading.clear()
    await engine.source.reading.wait()
    engine.servicer.request_shutdown()
    eof = await call
    assert eof.has_more
    assert not eof.limit_message
    assert not eof.failure_message
    # The request neither increases nor resets the count.
    assert counted(eof) == 1


async def test_a_shutdown_of_a_request_with_a_limit_is_not_a_limit(
    engine: ScriptedEngine,
) -> None:
    engine.offers("a", read=then_blocks(started("a")))
    call = asyncio.create_task(engine.batch(run_id="r1", time_limit=of(60)))
    await engine.source.reading.wait()
    engine.servicer.request_shutdown()
    eof = await call
    assert eof.has_more
    assert not eof.limit_message
    assert counted(eof) == 0


async def test_a_deadline_that_has_passed_counts_and_reads_nothing() -> None:
    source = SourceScript(streams=[stream("a")], read=given(*PAGE, completed("a")))
    past = asyncio.get_running_loop().time() - 1
    with planned(source, DestinationScript()) as plan:
        plan = replace(plan, soft_limit=TimeLimit(past), hard_limit=past)
        eof = [message async for message in run_sync(plan)][-1].eof
    assert not source.requests
    assert_empty(eof, count=1)


async def test_a_run_with_nothing_left_to_read_is_finished_under_any_limit(
    engine: ScriptedEngine,
) -> None:
    engine.offers("a", read=given(*PAGE, completed("a")))
    state = (await engine.batch(run_id="r1")).ending_state
    eof = await engine.batch(run_id="r1", state=state, time_limit=of(0.001))
    assert eof.status == RUN_STATUS_SUCCEEDED
    assert not eof.has_more
    assert not eof.limit_message


async def test_a_listening_source_without_events_is_not_an_empty_request() -> None:
    limit = TimeLimit(None)

    async def listens(request: ReadRequest) -> Messages:
        yield global_checkpoint('{"cursor": 1}')
        request.on_listening()
        reach(limit)
        await blocks()

    state = OLD_STATE
    for _ in range(4):
        limit = TimeLimit(None)
        source = SourceScript(streams=[stream("a")], read=listens)
        options = SyncOptions(run_id="r1", state=state)
        with planned(source, DestinationScript(), options) as plan:
            eof = [
                message async for message in run_sync(replace(plan, soft_limit=limit, listen=True))
            ][-1].eof
        assert eof.has_more
        assert not eof.limit_message
        assert not eof.failure_message
        state = eof.ending_state


async def test_a_failed_request_is_not_an_empty_request(engine: ScriptedEngine) -> None:
    engine.offers("a", read=then_blocks(started("a")))
    state = (await engine.batch(run_id="r1", time_limit=SHORT)).ending_state
    # The source ends without having finished.
    engine.source.read = given(started("a"))
    eof = await engine.batch(run_id="r1", state=state, time_limit=of(60))
    assert eof.status == RUN_STATUS_FAILED
    assert not eof.limit_message
    assert counted(eof) == 0


async def test_near_the_limit_each_page_is_committed_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The destination would collect more rows, and the limit is never reached."""
    monkeypatch.setattr(pacing, "EARLY_FLUSH_SECONDS", 1000.0)
    source = SourceScript(streams=[stream("a")], read=then_blocks(*PAGE))
    destination = DestinationScript(commit_every=100)
    now = asyncio.get_running_loop().time()
    with planned(source, destination, SyncOptions(run_id="r1")) as plan:
        plan = replace(plan, soft_limit=TimeLimit(now + 900), hard_limit=now + 1800)
        seen = []
        async for message in run_sync(plan):
            seen.append(message)
            if message.HasField("source_state"):
                assert destination.committed == {"a": [b'{"id": 1}']}
                reach(plan.soft_limit)
    assert seen[-1].eof.ending_state.source.streams == {"a": '{"pages": 1}'}
    assert not any(message.HasField("barrier") for message in seen)


@pytest.mark.parametrize("limits", ["none", "only a soft one", "far away"])
async def test_far_from_the_limit_a_destination_collects_pages(limits: str) -> None:
    pages = [message for _ in range(3) for message in PAGE[1:]]
    source = SourceScript(streams=[stream("a")], read=given(started("a"), *pages, completed("a")))
    commits: list[None] = []

    async def count() -> None:
        commits.append(None)

    destination = DestinationScript(commit_every=100, before_commit=count)
    later = asyncio.get_running_loop().time() + 900
    with planned(source, destination) as plan:
        plan = replace(
            plan,
            soft_limit=TimeLimit(None if limits == "none" else later),
            hard_limit=later + 900 if limits == "far away" else None,
        )
        async for _ in run_sync(plan):
            pass
    assert len(commits) == 1
