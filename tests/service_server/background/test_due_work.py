"""Tests for the loop that runs due work with a bound."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import structlog

from service_server.background.due_work import DueWork
from service_server.background.fair_shares import FairShares, IdFilter
from service_server.background.heartbeats import Heartbeats, Loop


class Pieces:
    """Work of pipelines that a test ends.

    Attributes:
        due: Pipelines whose work is due.
        begun: Pipelines whose work has begun.
        errors: The errors that work is postponed for, by pipeline.
        free: The capacity in each look.
    """

    def __init__(self, *due: str, limit: int = 2) -> None:
        self.due = list(due)
        self.begun: list[str] = []
        self.errors: dict[str, BaseException] = {}
        self.free: list[int] = []
        self.work = DueWork(Loop.SCHEDULER, self._start_due, Heartbeats(), shares=FairShares(limit))
        self._ends: dict[str, asyncio.Future[None]] = {}
        self._changed = asyncio.Condition()

    async def _start_due(self, free: int, _: IdFilter) -> float:
        self.free.append(free)
        due, self.due = self.due[:free], self.due[free:]
        for pipeline_id in due:
            self._ends[pipeline_id] = asyncio.get_running_loop().create_future()
            postpone = partial(self._postpone, pipeline_id)
            self.work.start(pipeline_id, partial(self._run, pipeline_id), postpone)
        return 3600.0

    async def _run(self, pipeline_id: str) -> None:
        assert structlog.contextvars.get_contextvars()["pipeline_id"] == pipeline_id
        await self._note(lambda: self.begun.append(pipeline_id))
        await self._ends[pipeline_id]

    async def _postpone(self, pipeline_id: str, error: BaseException) -> None:
        await self._note(lambda: self.errors.update({pipeline_id: error}))

    async def _note(self, change: Callable[[], object]) -> None:
        async with self._changed:
            change()
            self._changed.notify_all()

    def until(self, wanted: Callable[[], bool]) -> Awaitable[None]:
        async def wait() -> None:
            async with asyncio.timeout(10), self._changed:
                await self._changed.wait_for(wanted)

        return wait()

    def end(self, pipeline_id: str, error: BaseException | None = None) -> None:
        if error is None:
            self._ends[pipeline_id].set_result(None)
        else:
            self._ends[pipeline_id].set_exception(error)


async def test_no_more_than_the_limit_is_under_way_and_an_end_makes_room() -> None:
    pieces = Pieces("a", "b", "c")
    async with pieces.work.running(grace=10):
        await pieces.until(lambda: pieces.begun == ["a", "b"])
        assert set(pieces.work.under_way) == {"a", "b"}
        # While none is free, no work is looked for.
        pieces.work.wake()
        await asyncio.sleep(0.05)
        assert pieces.free == [2]
        pieces.end("a")
        await pieces.until(lambda: pieces.begun == ["a", "b", "c"])
        pieces.end("b")
        pieces.end("c")
    assert not pieces.work.under_way


@pytest.mark.parametrize("error", [RuntimeError("injected"), asyncio.CancelledError()])
async def test_work_that_raises_is_postponed_and_the_rest_goes_on(error: BaseException) -> None:
    pieces = Pieces("a", "b", limit=1)
    async with pieces.work.running(grace=10):
        await pieces.until(lambda: pieces.begun == ["a"])
        pieces.end("a", error)
        await pieces.until(lambda: pieces.begun == ["a", "b"])
        assert isinstance(pieces.errors["a"], type(error))
        pieces.end("b")
    assert list(pieces.errors) == ["a"]


async def test_a_pipeline_whose_claim_lapsed_may_have_two_pieces() -> None:
    pieces = Pieces("a", "b")
    async with pieces.work.running(grace=10):
        await pieces.until(lambda: pieces.begun == ["a", "b"])
        pieces.end("b")
        await asyncio.sleep(0)
        pieces.due = ["a"]
        first = pieces._ends["a"]
        pieces.work.wake()
        await pieces.until(lambda: pieces.begun == ["a", "b", "a"])
        first.set_result(None)
        pieces.end("a")
    assert not pieces.work.under_way


async def test_work_that_outlasts_the_grace_is_cancelled() -> None:
    pieces = Pieces("a")
    async with pieces.work.running(grace=0.05):
        await pieces.until(lambda: pieces.begun == ["a"])
    assert not pieces.work.under_way
    # A cancellation from outside is no error of the work.
    assert not pieces.errors
