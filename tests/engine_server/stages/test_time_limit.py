"""Soft limit: with idle messages, brought forward, and on another event loop."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator

import pytest
import uvloop

from engine_server.stages.time_limit import TimeLimit, until
from pipesync.v1.message_pb2 import Message
from tests.engine_server.stages.sequences import Calls, failing, gathered, given
from tests.messages import log

FIRST, SECOND = log("first"), log("second")


class Idle:
    """Source that yields one message, blocks, and records that it was closed."""

    def __init__(self) -> None:
        self.waiting = asyncio.Event()
        self.closed = False

    async def messages(self) -> AsyncGenerator[Message, None]:
        try:
            yield FIRST
            self.waiting.set()
            await asyncio.Event().wait()
        finally:
            self.closed = True


def after(seconds: float) -> TimeLimit:
    return TimeLimit(asyncio.get_running_loop().time() + seconds)


async def test_an_idle_source_is_cut_off_and_closed() -> None:
    reached, idle = Calls(), Idle()
    async with asyncio.timeout(5):
        assert await gathered(until(idle.messages(), after(0.02), reached)) == [FIRST]
    assert reached.count == 1
    assert idle.closed


async def test_a_limit_in_the_past_yields_nothing() -> None:
    reached = Calls()
    assert await gathered(until(given(FIRST), after(-1), reached)) == []
    assert reached.count == 1


@pytest.mark.parametrize("seconds", [None, 60.0])
async def test_messages_that_end_first_are_not_cut_off(seconds: float | None) -> None:
    reached = Calls()
    limit = TimeLimit(None) if seconds is None else after(seconds)
    assert await gathered(until(given(FIRST, SECOND), limit, reached)) == [FIRST, SECOND]
    assert reached.count == 0


@pytest.mark.parametrize("seconds", [None, 60.0])
async def test_a_limit_can_be_brought_forward_during_a_wait(
    seconds: float | None,
) -> None:
    reached, idle = Calls(), Idle()
    limit = TimeLimit(None) if seconds is None else after(seconds)
    gathering = asyncio.create_task(gathered(until(idle.messages(), limit, reached)))
    await idle.waiting.wait()
    limit.end_now()
    async with asyncio.timeout(5):
        assert await gathering == [FIRST]
    assert reached.count == 1
    assert idle.closed


async def test_a_limit_brought_forward_beforehand_yields_nothing() -> None:
    limit = TimeLimit(None)
    limit.end_now()
    assert await gathered(until(given(FIRST), limit, Calls())) == []


async def test_bringing_forward_never_delays_a_limit() -> None:
    limit = after(-10)
    at = limit.at
    limit.end_now()
    assert limit.at == at


async def test_a_limit_may_be_brought_forward_again_while_messages_close() -> None:
    limit, closing, may_close = TimeLimit(None), asyncio.Event(), asyncio.Event()
    waiting = asyncio.Event()

    async def slow_to_close() -> AsyncGenerator[Message, None]:
        try:
            yield FIRST
            waiting.set()
            await asyncio.Event().wait()
        finally:
            closing.set()
            await may_close.wait()

    gathering = asyncio.create_task(gathered(until(slow_to_close(), limit, Calls())))
    await waiting.wait()
    limit.end_now()
    await closing.wait()
    limit.end_now()
    may_close.set()
    assert await gathering == [FIRST]


async def test_a_sources_own_timeout_passes_through() -> None:
    reached = Calls()
    with pytest.raises(TimeoutError, match="the source's own"):
        await gathered(until(failing(TimeoutError("the source's own")), after(60), reached))
    assert reached.count == 0


async def test_messages_that_end_by_their_cancellation_count_as_cut_off() -> None:
    async def ends_quietly() -> AsyncGenerator[Message, None]:
        yield FIRST
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

    reached = Calls()
    assert await gathered(until(ends_quietly(), after(0.02), reached)) == [FIRST]
    assert reached.count == 1


async def test_an_inner_limit_ends_only_its_own_messages() -> None:
    inner, outer = Calls(), Calls()

    async def goes_on(messages: AsyncGenerator[Message, None]) -> AsyncGenerator[Message, None]:
        async for message in messages:
            yield message
        yield SECOND

    inside = goes_on(until(Idle().messages(), after(0.02), inner))
    assert await gathered(until(inside, after(60), outer)) == [FIRST, SECOND]
    assert (inner.count, outer.count) == (1, 0)


async def test_a_cancellation_passes_through() -> None:
    reached, idle = Calls(), Idle()
    gathering = asyncio.create_task(gathered(until(idle.messages(), after(60), reached)))
    await idle.waiting.wait()
    gathering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gathering
    assert reached.count == 0
    assert idle.closed


def test_a_loop_whose_timers_fire_early_does_not_mistake_the_limit_for_a_timeout() -> None:
    """The server's event loop rounds to milliseconds."""

    async def cut_at_odd_moments() -> None:
        for tenths_of_milliseconds in range(10, 40):
            limit = after(tenths_of_milliseconds / 10_000)
            reached = Calls()
            # On a busy machine, the limit may be reached before the first message.
            assert await gathered(until(Idle().messages(), limit, reached)) in ([], [FIRST])
            assert reached.count == 1

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(cut_at_odd_moments())


async def test_is_shutdown_is_set_only_before_the_time_of_the_limit() -> None:
    ended, reached, early = after(60), after(-1), after(60)
    ended.end_now()
    reached.end_now()
    early.bring_forward(asyncio.get_running_loop().time())
    assert [limit.is_shutdown for limit in (ended, reached, early)] == [True, False, False]
    assert all(limit.reached() for limit in (ended, reached, early))


async def test_a_limit_is_never_delayed() -> None:
    limit = after(60)
    at = limit.at
    assert at is not None
    limit.bring_forward(at + 60)
    assert limit.at == at
