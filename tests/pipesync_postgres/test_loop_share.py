"""The share of the event loop for parsing: connections take turns."""

import asyncio

import pytest

from pipesync_postgres import loop_share
from pipesync_postgres.loop_share import LoopShare


async def test_work_beyond_the_share_waits_for_turns_in_which_other_work_is_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    share, done, turns = LoopShare(asyncio.get_running_loop()), list[str](), 0

    def parse(name: str, left: int) -> None:
        done.append(name)
        if left:
            share.wait(lambda: parse(name, left - 1))

    monkeypatch.setattr(loop_share, "_SECONDS", 1e-9)
    assert not share.is_used_up()
    share.use(lambda: parse("a", 2))
    assert share.is_used_up()
    share.wait(lambda: parse("b", 2))
    while len(done) < 6:
        turns += 1
        await asyncio.sleep(0)
    assert done == ["a", "a", "b", "a", "b", "b"]
    assert turns >= 5


async def test_work_that_fails_ends_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    share = LoopShare(asyncio.get_running_loop())
    reported = list[object]()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    finished = asyncio.Event()
    share.wait(lambda: 1 // 0)  # type: ignore[arg-type]
    share.wait(finished.set)
    await asyncio.wait_for(finished.wait(), 10)
    assert len(reported) == 1


async def test_each_loop_has_one_share() -> None:
    assert loop_share.loop_share() is loop_share.loop_share()
