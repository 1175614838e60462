"""End of a request at its hard limit, even if connectors do not stop."""

import asyncio
from collections.abc import AsyncGenerator

import pytest
from structlog.testing import capture_logs

from engine_server.stages import hard_limit
from engine_server.stages.hard_limit import end_at
from pipesync.v1.message_pb2 import Message
from tests.engine_server.stages.sequences import Calls, failing, gathered, given
from tests.messages import checkpoint

FIRST, SECOND = checkpoint("a", "1"), checkpoint("a", "2")


def soon() -> float:
    return asyncio.get_running_loop().time() + 0.05


def now() -> float:
    return asyncio.get_running_loop().time()


async def blocks(*messages: Message, closed: asyncio.Event) -> AsyncGenerator[Message, None]:
    try:
        for message in messages:
            yield message
        await asyncio.Event().wait()
    finally:
        closed.set()


@pytest.mark.parametrize("limited", [True, False])
async def test_messages_that_end_in_time_all_pass(limited: bool) -> None:
    reached = Calls()
    moment = now() + 60 if limited else None
    assert await gathered(end_at(given(FIRST, SECOND), moment, reached)) == [FIRST, SECOND]
    assert reached.count == 0


async def test_messages_that_block_are_cancelled_at_the_limit() -> None:
    reached, closed = Calls(), asyncio.Event()
    before = asyncio.all_tasks()
    assert await gathered(end_at(blocks(FIRST, closed=closed), soon(), reached)) == [FIRST]
    assert reached.count == 1
    assert closed.is_set()
    assert asyncio.all_tasks() == before


async def test_a_past_limit_yields_nothing() -> None:
    reached = Calls()
    assert await gathered(end_at(given(FIRST), now() - 1, reached)) == []
    assert reached.count == 1


async def test_a_connector_that_ignores_its_cancellation_is_abandoned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hard_limit, "STOP_TIMEOUT", 0.05)
    released, done = asyncio.Event(), asyncio.Event()

    async def stubborn() -> AsyncGenerator[Message, None]:
        yield FIRST
        try:
            await asyncio.Event().wait()
        finally:
            await released.wait()
            done.set()

    reached = Calls()
    with capture_logs() as logs:
        assert await gathered(end_at(stubborn(), soon(), reached)) == [FIRST]
    assert reached.count == 1
    assert [entry["event"] for entry in logs] == ["connector_does_not_stop"]
    released.set()
    await done.wait()


async def test_an_exception_is_propagated() -> None:
    with pytest.raises(ValueError, match="broken"):
        await gathered(end_at(failing(ValueError("broken"), FIRST), now() + 60, Calls()))


async def test_closing_the_stage_ends_the_reading() -> None:
    reading, before = asyncio.Event(), asyncio.all_tasks()

    async def idle() -> AsyncGenerator[Message, None]:
        reading.set()
        await asyncio.Event().wait()
        yield FIRST

    gathering = asyncio.create_task(gathered(end_at(idle(), None, Calls())))
    await reading.wait()
    gathering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gathering
    assert asyncio.all_tasks() == before
