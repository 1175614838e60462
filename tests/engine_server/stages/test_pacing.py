"""Measurement of a request's pages and flushes, and its effect on the soft limit."""

import asyncio

from engine_server.flush_times import RecentFlushes
from engine_server.stages.flush_early import flush_early, measure_flushes, measure_pages
from engine_server.stages.pacing import Pacing
from engine_server.stages.time_limit import TimeLimit
from pipesync.v1.message_pb2 import Barrier, Message
from tests.engine_server.stages.sequences import gathered, given
from tests.messages import checkpoint, completed, log, record_batch, started

PAGE = (record_batch("a", b"{}"), checkpoint("a", "1"))
BARRIER = Message(barrier=Barrier(number=0))


class Bench:
    """Request with a clock that the test advances, far ahead of the event loop's clock."""

    def __init__(self, *, soft: float | None, hard: float | None) -> None:
        self.began = self.now = asyncio.get_running_loop().time() + 1000
        self.recent = RecentFlushes()
        self.limit = TimeLimit(None if soft is None else self.now + soft)
        self.pacing = Pacing(
            soft_limit=self.limit,
            hard_limit=None if hard is None else self.now + hard,
            recent=self.recent,
            clock=lambda: self.now,
        )

    @property
    def soft_seconds(self) -> float:
        """Time from the start of the request until reading stops."""
        assert self.limit.at is not None
        return round(self.limit.at - self.began, 6)

    async def messages_sent(self) -> list[Message]:
        """Return the destination's input for a page and the end of its stream."""
        messages = given(log("x"), started("a"), *PAGE, completed("a"))
        return await gathered(flush_early(messages, self.pacing))

    async def messages_passed(self, *messages: Message) -> list[Message]:
        """Return the messages of the destination that pass."""
        return await gathered(measure_flushes(given(*messages), self.pacing))


async def test_a_page_is_flushed_in_the_last_second_before_the_soft_limit() -> None:
    bench = Bench(soft=8, hard=10)
    bench.now += 6.9
    assert BARRIER not in await bench.messages_sent()
    bench.now += 0.2
    assert await bench.messages_sent() == [
        log("x"),
        started("a"),
        *PAGE,
        BARRIER,
        completed("a"),
    ]


async def test_no_page_is_flushed_early_without_a_near_hard_limit() -> None:
    for bench in (Bench(soft=0.5, hard=None), Bench(soft=None, hard=None)):
        assert BARRIER not in await bench.messages_sent()


async def test_a_checkpoint_without_records_causes_no_flush() -> None:
    bench = Bench(soft=0.5, hard=1)
    messages = given(checkpoint("a", "1"), checkpoint("a", "2"))
    assert BARRIER not in await gathered(flush_early(messages, bench.pacing))


async def test_early_barriers_are_consumed_and_those_of_the_source_pass() -> None:
    bench = Bench(soft=0.5, hard=1)
    theirs = Message(barrier=Barrier(number=1))
    assert await bench.messages_passed(BARRIER, theirs, *PAGE) == [theirs, *PAGE]


async def test_slow_flushes_bring_the_soft_limit_forward_up_to_half_of_the_time() -> None:
    bench = Bench(soft=0.9, hard=1)
    await bench.messages_sent()
    bench.now += 0.2
    assert bench.pacing.take_barrier(BARRIER)
    assert bench.recent.estimate is not None
    assert round(bench.recent.estimate, 6) == 0.2
    assert bench.soft_seconds == 0.71
    await bench.messages_sent()
    bench.now += 0.6
    assert bench.pacing.take_barrier(BARRIER)
    assert bench.soft_seconds == 0.5


async def test_a_fast_flush_does_not_move_the_soft_limit() -> None:
    bench = Bench(soft=0.9, hard=1)
    await bench.messages_sent()
    bench.now += 0.001
    assert bench.pacing.take_barrier(BARRIER)
    assert bench.soft_seconds == 0.9


async def test_a_flush_cut_off_by_the_limit_counts_with_its_duration_so_far() -> None:
    bench = Bench(soft=0.9, hard=1)
    await bench.messages_sent()
    bench.now += 1
    await bench.messages_passed()
    assert bench.recent.estimate is not None
    assert round(bench.recent.estimate, 6) == 1


async def test_a_flush_cancelled_by_the_caller_is_not_measured() -> None:
    bench = Bench(soft=0.9, hard=1)
    await bench.messages_sent()
    bench.now += 0.5
    await bench.messages_passed()
    assert bench.recent.estimate is None


async def test_the_flush_at_the_soft_limit_is_measured() -> None:
    bench = Bench(soft=8, hard=10)
    bench.pacing.observe_page()
    await bench.messages_sent()
    bench.limit.bring_forward(asyncio.get_running_loop().time())
    bench.now += 1.5
    await bench.messages_passed(*PAGE)
    assert bench.recent.estimate is not None
    assert round(bench.recent.estimate, 6) == 1.5


async def test_the_flush_at_the_end_of_the_history_is_not_measured() -> None:
    bench = Bench(soft=8, hard=10)
    await bench.messages_sent()
    bench.now += 1.5
    await bench.messages_passed(*PAGE)
    assert bench.recent.estimate is None


async def test_a_request_without_a_page_drops_the_longest_flush() -> None:
    bench = Bench(soft=8, hard=10)
    bench.recent.add(3.0)
    bench.limit.bring_forward(asyncio.get_running_loop().time())
    await bench.messages_passed()
    assert bench.recent.estimate is None


async def test_the_duration_of_a_page_is_described() -> None:
    bench = Bench(soft=8, hard=10)
    bench.now += 1.25
    told = bench.pacing.describe_pages()
    assert told == "the source was read for 1.2 s, and no page arrived"
    async for _ in measure_pages(given(started("a"), *PAGE), bench.pacing):
        bench.now += 0.5
    # The first message also took half a second.
    assert bench.pacing.describe_pages() == (
        "a page took 1.8 s, and the destination had not committed it 1 s later"
    )
    bench.now += 3
    async for _ in measure_pages(given(*PAGE), bench.pacing):
        pass
    assert bench.pacing.describe_pages().startswith("a page took 4 s, ")
