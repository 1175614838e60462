"""How a request's pages and flushes are measured, and what that does to its limit."""

import asyncio

from engine_server.flush_times import RecentFlushes
from engine_server.stages.hurry import hurry_pages, measure_flushes, measure_pages
from engine_server.stages.pacing import Pacing
from engine_server.stages.time_limit import TimeLimit
from pipesync.v1.message_pb2 import Barrier, Message
from tests.engine_server.stages.sequences import gathered, given
from tests.messages import checkpoint, completed, log, record_batch, started

PAGE = (record_batch("a", b"{}"), checkpoint("a", "1"))
BARRIER = Message(barrier=Barrier(number=0))


class Bench:
    """One request, whose time a test lets pass; far in the future of the event loop's clock."""

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
        """When reading stops, from the beginning of the request."""
        assert self.limit.at is not None
        return round(self.limit.at - self.began, 6)

    async def handed_over(self) -> list[Message]:
        """What the destination gets of a page and the end of its stream."""
        messages = given(log("x"), started("a"), *PAGE, completed("a"))
        return await gathered(hurry_pages(messages, self.pacing))

    async def passed_on(self, *messages: Message) -> list[Message]:
        """What is left of what the destination yields."""
        return await gathered(measure_flushes(given(*messages), self.pacing))


async def test_a_page_hurries_in_the_last_second_before_the_soft_limit() -> None:
    bench = Bench(soft=8, hard=10)
    bench.now += 6.9
    assert BARRIER not in await bench.handed_over()
    bench.now += 0.2
    assert await bench.handed_over() == [
        log("x"),
        started("a"),
        *PAGE,
        BARRIER,
        completed("a"),
    ]


async def test_no_page_hurries_where_a_flush_may_take_its_time() -> None:
    for bench in (Bench(soft=0.5, hard=None), Bench(soft=None, hard=None)):
        assert BARRIER not in await bench.handed_over()


async def test_a_checkpoint_without_records_hurries_nothing() -> None:
    bench = Bench(soft=0.5, hard=1)
    messages = given(checkpoint("a", "1"), checkpoint("a", "2"))
    assert BARRIER not in await gathered(hurry_pages(messages, bench.pacing))


async def test_barriers_end_behind_the_destination_and_those_of_the_source_go_on() -> None:
    bench = Bench(soft=0.5, hard=1)
    theirs = Message(barrier=Barrier(number=1))
    assert await bench.passed_on(BARRIER, theirs, *PAGE) == [theirs, *PAGE]


async def test_slow_flushes_bring_the_soft_limit_forward_up_to_half_of_the_time() -> None:
    bench = Bench(soft=0.9, hard=1)
    await bench.handed_over()
    bench.now += 0.2
    assert bench.pacing.passed_on(BARRIER)
    assert bench.recent.estimate is not None
    assert round(bench.recent.estimate, 6) == 0.2
    assert bench.soft_seconds == 0.71
    await bench.handed_over()
    bench.now += 0.6
    assert bench.pacing.passed_on(BARRIER)
    assert bench.soft_seconds == 0.5


async def test_a_fast_flush_leaves_the_soft_limit_where_it_is() -> None:
    bench = Bench(soft=0.9, hard=1)
    await bench.handed_over()
    bench.now += 0.001
    assert bench.pacing.passed_on(BARRIER)
    assert bench.soft_seconds == 0.9


async def test_a_flush_that_is_cut_takes_at_least_that_long() -> None:
    bench = Bench(soft=0.9, hard=1)
    await bench.handed_over()
    bench.now += 1
    await bench.passed_on()
    assert bench.recent.estimate is not None
    assert round(bench.recent.estimate, 6) == 1


async def test_a_flush_that_the_caller_ended_is_not_measured() -> None:
    bench = Bench(soft=0.9, hard=1)
    await bench.handed_over()
    bench.now += 0.5
    await bench.passed_on()
    assert bench.recent.estimate is None


async def test_the_flush_at_the_soft_limit_is_measured() -> None:
    bench = Bench(soft=8, hard=10)
    bench.pacing.page_read()
    await bench.handed_over()
    bench.limit.bring_forward(asyncio.get_running_loop().time())
    bench.now += 1.5
    await bench.passed_on(*PAGE)
    assert bench.recent.estimate is not None
    assert round(bench.recent.estimate, 6) == 1.5


async def test_a_flush_at_the_end_of_the_history_is_not_as_it_may_be_large() -> None:
    bench = Bench(soft=8, hard=10)
    await bench.handed_over()
    bench.now += 1.5
    await bench.passed_on(*PAGE)
    assert bench.recent.estimate is None


async def test_a_limit_without_a_page_has_the_longest_flush_forgotten() -> None:
    bench = Bench(soft=8, hard=10)
    bench.recent.add(3.0)
    bench.limit.bring_forward(asyncio.get_running_loop().time())
    await bench.passed_on()
    assert bench.recent.estimate is None


async def test_the_time_that_a_page_took_is_told() -> None:
    bench = Bench(soft=8, hard=10)
    bench.now += 1.25
    told = bench.pacing.describe_pages()
    assert told == "the source was read for 1.2 s, and no page arrived"
    async for _ in measure_pages(given(started("a"), *PAGE), bench.pacing):
        bench.now += 0.5
    # The first message took half a second as well.
    assert bench.pacing.describe_pages() == (
        "a page took 1.8 s, and the destination had not committed it 1 s later"
    )
    bench.now += 3
    async for _ in measure_pages(given(*PAGE), bench.pacing):
        pass
    assert bench.pacing.describe_pages().startswith("a page took 4 s, ")
