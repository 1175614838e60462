"""A background loop: it goes on after every exception, forgets no wake, and ends when asked to."""

import asyncio
from collections.abc import Callable

import pytest
import structlog

from service_server import background
from service_server.background import BackgroundLoop, Backoff, keep_trying
from service_server.errors import StoreUnavailable
from service_server.heartbeats import Heartbeats, Loop
from tests.service_server.faults import all_faults, until


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Backoff, "pause", lambda _: 0.0)


class Rounds:
    """A loop's work.

    Attributes:
        count: How many rounds began.
        faults: Raised by one round each.
        during: Called in the middle of each round.
        seconds: What a round that ends well returns.
    """

    def __init__(self) -> None:
        self.count = 0
        self.faults: list[BaseException] = []
        self.during: Callable[[], object] = lambda: None
        self.seconds = 3600.0

    async def __call__(self) -> float:
        self.count += 1
        await asyncio.sleep(0)
        self.during()
        if self.faults:
            raise self.faults.pop(0)
        return self.seconds


@pytest.fixture
def rounds() -> Rounds:
    return Rounds()


@pytest.fixture
def heartbeats() -> Heartbeats:
    return Heartbeats()


@pytest.fixture
def loop(rounds: Rounds, heartbeats: Heartbeats) -> BackgroundLoop:
    return BackgroundLoop(Loop.SCHEDULER, rounds, heartbeats)


@pytest.mark.usefixtures("no_pauses")
async def test_it_goes_on_after_every_exception_and_counts_each(
    loop: BackgroundLoop, rounds: Rounds, heartbeats: Heartbeats
) -> None:
    rounds.faults = all_faults()
    count = len(rounds.faults)
    with structlog.testing.capture_logs() as logs:
        async with loop.running():
            await until(lambda: rounds.count == count + 1)
            assert heartbeats.failures == {Loop.SCHEDULER: count}
            assert not heartbeats.standing_still()
            loop.wake()
            await until(lambda: rounds.count == count + 2)
    assert [log["event"] for log in logs] == ["loop_failed"] * count
    assert {log["loop"] for log in logs} == {"scheduler"}


async def test_the_words_of_a_database_that_is_unavailable_are_logged(
    loop: BackgroundLoop, rounds: Rounds
) -> None:
    rounds.faults = [StoreUnavailable("unavailable", database_message="no more connections")]
    with structlog.testing.capture_logs() as logs:
        async with loop.running():
            await until(lambda: rounds.count == 2)
    [log] = logs
    assert (log["error"], log["database_message"]) == ("unavailable", "no more connections")


@pytest.mark.usefixtures("no_pauses")
async def test_it_goes_on_where_its_log_cannot_be_written(
    loop: BackgroundLoop, rounds: Rounds, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        def warning(self, *_: object, **__: object) -> None:
            raise BrokenPipeError

    monkeypatch.setattr(background, "_log", Broken())
    rounds.faults = [RuntimeError("injected")]
    async with loop.running():
        await until(lambda: rounds.count == 2)


async def test_a_wake_during_a_round_brings_another_one(
    loop: BackgroundLoop, rounds: Rounds
) -> None:
    def wake_once() -> None:
        rounds.during = lambda: None
        loop.wake()

    rounds.during = wake_once
    async with loop.running():
        await until(lambda: rounds.count == 2)


async def test_a_wake_before_the_first_round_is_kept(loop: BackgroundLoop, rounds: Rounds) -> None:
    loop.wake()
    async with loop.running(first_in=3600):
        await until(lambda: rounds.count == 1)


async def test_wakes_do_not_cut_the_pause_after_a_failure(
    loop: BackgroundLoop, rounds: Rounds, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Backoff, "pause", lambda _: 3600.0)
    rounds.faults = [RuntimeError("injected")]
    async with loop.running():
        await until(lambda: not rounds.faults)
        for _ in range(100):
            loop.wake()
            await asyncio.sleep(0)
        assert rounds.count == 1
        # Neither the pause nor a wake keeps it from ending: this returns.


async def test_it_ends_in_the_middle_of_a_round_without_grace(heartbeats: Heartbeats) -> None:
    began, outcome = asyncio.Event(), []

    async def last_for_ever() -> float:
        began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            outcome.append("cancelled")
            raise
        return 0.0

    async with BackgroundLoop(Loop.SCHEDULER, last_for_ever, heartbeats).running():
        await began.wait()
    assert outcome == ["cancelled"]
    assert not heartbeats.ages()


async def test_a_round_under_way_ends_by_itself_within_the_grace(heartbeats: Heartbeats) -> None:
    began, go_on, outcome = asyncio.Event(), asyncio.Event(), []

    async def one() -> float:
        began.set()
        await go_on.wait()
        outcome.append("ended")
        return 0.0

    loop = BackgroundLoop(Loop.SCHEDULER, one, heartbeats)
    async with loop.running(grace=60):
        await began.wait()
        asyncio.get_running_loop().call_soon(go_on.set)
    assert outcome == ["ended"]


async def test_a_round_that_makes_an_exception_of_its_cancellation_ends_the_loop(
    heartbeats: Heartbeats,
) -> None:
    began = asyncio.Event()

    async def one() -> float:
        began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise RuntimeError("the connection was lost") from None
        return 0.0

    async with asyncio.timeout(60):
        async with BackgroundLoop(Loop.SCHEDULER, one, heartbeats).running():
            await began.wait()


async def test_pauses_grow_up_to_a_limit_and_start_over_after_a_success() -> None:
    backoff = Backoff(first=1.0, longest=8.0)
    pauses = [backoff.pause() for _ in range(5)]
    for pause, most in zip(pauses, [1, 2, 4, 8, 8], strict=True):
        assert most / 2 <= pause <= most
    backoff.reset()
    assert backoff.pause() <= 1


class TestKeepTrying:
    @pytest.mark.usefixtures("no_pauses")
    async def test_it_goes_on_after_every_exception(self, heartbeats: Heartbeats) -> None:
        faults = all_faults()
        count = len(faults)

        async def work() -> None:
            if faults:
                raise faults.pop(0)

        ended = asyncio.Event()
        with structlog.testing.capture_logs():
            await keep_trying(work, Loop.POSTPONEMENT, heartbeats, seconds=3600, ended=ended)
        assert heartbeats.failures == {Loop.POSTPONEMENT: count}
        assert not heartbeats.ages()

    async def test_it_gives_up_when_success_would_not_matter_any_more(
        self, heartbeats: Heartbeats
    ) -> None:
        async def work() -> None:
            raise RuntimeError("injected")

        await keep_trying(work, Loop.POSTPONEMENT, heartbeats, seconds=0, ended=asyncio.Event())
        assert heartbeats.failures == {Loop.POSTPONEMENT: 1}

    async def test_it_gives_up_at_the_end(
        self, heartbeats: Heartbeats, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Backoff, "pause", lambda _: 3000.0)
        ended, failed = asyncio.Event(), asyncio.Event()

        async def work() -> None:
            failed.set()
            raise RuntimeError("injected")

        trying = asyncio.create_task(
            keep_trying(work, Loop.POSTPONEMENT, heartbeats, seconds=3600, ended=ended)
        )
        await failed.wait()
        ended.set()
        async with asyncio.timeout(60):
            await trying
        assert heartbeats.failures[Loop.POSTPONEMENT] <= 2
