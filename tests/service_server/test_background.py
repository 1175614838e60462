"""Background loops: they survive every exception, lose no wake, and end on request."""

import asyncio
from collections.abc import Callable

import pytest
import structlog

from service_server.background import loop as background
from service_server.background.heartbeats import Heartbeats, Loop
from service_server.background.loop import BackgroundLoop, Backoff, keep_trying
from service_server.errors import StoreUnavailable
from tests.service_server.faults import all_faults, until


@pytest.fixture
def no_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Backoff, "next_delay", lambda _: 0.0)


class Rounds:
    """Rounds of a loop.

    Attributes:
        count: Number of rounds that began.
        faults: Exceptions to raise, one a round.
        during: Called in the middle of each round.
        seconds: Return value of a round that succeeds.
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


@pytest.mark.usefixtures("no_delays")
async def test_a_loop_survives_and_counts_every_exception(
    loop: BackgroundLoop, rounds: Rounds, heartbeats: Heartbeats
) -> None:
    rounds.faults = all_faults()
    count = len(rounds.faults)
    with structlog.testing.capture_logs() as logs:
        async with loop.running():
            await until(lambda: rounds.count == count + 1)
            assert heartbeats.failures == {Loop.SCHEDULER: count}
            assert not heartbeats.stalled_loops()
            loop.wake()
            await until(lambda: rounds.count == count + 2)
    assert [log["event"] for log in logs] == ["loop_failed"] * count
    assert {log["loop"] for log in logs} == {"scheduler"}


async def test_the_message_of_an_unavailable_database_is_logged(
    loop: BackgroundLoop, rounds: Rounds
) -> None:
    rounds.faults = [StoreUnavailable("unavailable", database_message="no more connections")]
    with structlog.testing.capture_logs() as logs:
        async with loop.running():
            await until(lambda: rounds.count == 2)
    [log] = logs
    assert (log["error"], log["database_message"]) == ("unavailable", "no more connections")


@pytest.mark.usefixtures("no_delays")
async def test_a_loop_survives_a_failure_of_the_log(
    loop: BackgroundLoop, rounds: Rounds, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        def warning(self, *_: object, **__: object) -> None:
            raise BrokenPipeError

    monkeypatch.setattr(background, "_log", Broken())
    rounds.faults = [RuntimeError("injected")]
    async with loop.running():
        await until(lambda: rounds.count == 2)


async def test_a_wake_during_a_round_starts_another_round(
    loop: BackgroundLoop, rounds: Rounds
) -> None:
    def wake_once() -> None:
        rounds.during = lambda: None
        loop.wake()

    rounds.during = wake_once
    async with loop.running():
        await until(lambda: rounds.count == 2)


async def test_a_wake_before_the_first_round_is_not_lost(
    loop: BackgroundLoop, rounds: Rounds
) -> None:
    loop.wake()
    async with loop.running(first_in=3600):
        await until(lambda: rounds.count == 1)


async def test_wakes_do_not_shorten_the_delay_after_a_failure(
    loop: BackgroundLoop, rounds: Rounds, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Backoff, "next_delay", lambda _: 3600.0)
    rounds.faults = [RuntimeError("injected")]
    async with loop.running():
        await until(lambda: not rounds.faults)
        for _ in range(100):
            loop.wake()
            await asyncio.sleep(0)
        assert rounds.count == 1
        # Neither the delay nor the wakes prevent the end of the loop.


async def test_without_grace_the_round_under_way_is_cancelled(heartbeats: Heartbeats) -> None:
    began, outcome = asyncio.Event(), []

    async def endless() -> float:
        began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            outcome.append("cancelled")
            raise
        return 0.0

    async with BackgroundLoop(Loop.SCHEDULER, endless, heartbeats).running():
        await began.wait()
    assert outcome == ["cancelled"]
    assert not heartbeats.ages()


async def test_within_the_grace_the_round_under_way_finishes(heartbeats: Heartbeats) -> None:
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


async def test_a_loop_ends_even_if_a_round_turns_its_cancellation_into_another_exception(
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


async def test_delays_double_up_to_the_maximum_and_a_success_resets_them() -> None:
    backoff = Backoff(first=1.0, maximum=8.0)
    delays = [backoff.next_delay() for _ in range(5)]
    for delay, longest in zip(delays, [1, 2, 4, 8, 8], strict=True):
        assert longest / 2 <= delay <= longest
    backoff.reset()
    assert backoff.next_delay() <= 1


class TestKeepTrying:
    @pytest.mark.usefixtures("no_delays")
    async def test_every_exception_is_retried(self, heartbeats: Heartbeats) -> None:
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

    async def test_no_retry_follows_once_success_would_no_longer_matter(
        self, heartbeats: Heartbeats
    ) -> None:
        async def work() -> None:
            raise RuntimeError("injected")

        await keep_trying(work, Loop.POSTPONEMENT, heartbeats, seconds=0, ended=asyncio.Event())
        assert heartbeats.failures == {Loop.POSTPONEMENT: 1}

    async def test_no_retry_follows_after_the_end(
        self, heartbeats: Heartbeats, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Backoff, "next_delay", lambda _: 3000.0)
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
