"""Tests for the schedule of turns, with a clock of the tests, and for the worker that uses it."""

import asyncio

import pytest

from service_server.background.heartbeats import Heartbeats
from service_server.store import inbox
from service_server.store.database import Database
from service_server.webhooks import worker
from service_server.webhooks.applier import InboxApplier
from service_server.webhooks.turn_times import TurnTimes
from service_server.webhooks.worker import InboxWorker
from tests.service_server.webhooks.conftest import InboxHarness
from tests.service_server.webhooks.deliveries import event


@pytest.fixture
def times() -> TurnTimes:
    return TurnTimes()


def test_a_waiting_pipeline_is_due_at_once(times: TurnTimes) -> None:
    assert times.due(["a"], [], 10) == ["a"]
    assert times.seconds_to_next(["a"], 10) is None


def test_a_delayed_turn_is_checked_when_its_delay_ends(times: TurnTimes) -> None:
    times.succeeded("a", 10.5)
    assert times.due(["a"], [], 10) == []
    assert times.seconds_to_next([], 10) == 0.5
    assert times.due(["a"], [], 10.5) == ["a"]


def test_a_delay_that_ended_since_the_last_check_is_not_forgotten(times: TurnTimes) -> None:
    times.succeeded("a", 10.01)
    assert times.due(["a"], [], 10) == []
    # The worker gathered until the delay was over.
    assert times.seconds_to_next([], 10.05) == 0
    assert times.due(["a"], [], 10.05) == ["a"]


def test_a_pipeline_whose_turn_ended_since_the_last_check_is_not_forgotten(
    times: TurnTimes,
) -> None:
    assert times.due(["a"], [], 10) == ["a"]
    times.succeeded("a", 10.3)
    assert times.seconds_to_next([], 10.05) == pytest.approx(0.25)
    assert times.seconds_to_next([], 11) == 0


def test_a_delay_without_events_is_checked_once_more_and_then_dropped(times: TurnTimes) -> None:
    times.succeeded("a", 10.5)
    assert times.due([], [], 10) == []
    assert times.seconds_to_next([], 10) == 0.5
    assert times.due([], [], 10.5) == []
    assert times.seconds_to_next([], 10.5) is None


def test_a_due_pipeline_that_waits_for_capacity_causes_no_checks(times: TurnTimes) -> None:
    assert times.due(["a", "b"], [], 10) == ["a", "b"]
    # There was capacity for the first: its end wakes the worker.
    assert times.seconds_to_next(["a"], 10) is None
    times.succeeded("a", 11)
    assert times.due(["a", "b"], [], 10.5) == ["b"]


def test_the_longest_due_come_first(times: TurnTimes) -> None:
    times.succeeded("a", 12)
    times.succeeded("b", 11)
    assert times.due(["a", "b", "c"], [], 13) == ["c", "b", "a"]


def test_failures_count_up_until_a_success(times: TurnTimes) -> None:
    assert [times.failed("a"), times.failed("a")] == [1, 2]
    assert times.failed("a", failures=1) == 1
    times.succeeded("a", 10)
    assert times.failed("a") == 1


@pytest.mark.parametrize("rest", [0.01, 0.1, 0.2])
async def test_an_event_during_a_delay_that_ends_while_the_worker_gathers_is_applied(
    harness: InboxHarness, database: Database, monkeypatch: pytest.MonkeyPatch, rest: float
) -> None:
    # Each check is followed by a longer time of gathering, without needless checks in between.
    monkeypatch.setattr(worker, "_GATHER", 0.2)
    monkeypatch.setattr(worker, "_REST", rest)
    monkeypatch.setattr(worker, "_REST_UNDER_LOAD", 0.0)
    monkeypatch.setattr(worker, "_LOOK_AGAIN", 3600.0)
    ended = asyncio.Event()

    class Applier(InboxApplier):
        async def apply(self, pipeline_id: str) -> int:
            applied = await super().apply(pipeline_id)
            if applied:
                ended.set()
            return applied

    applier = harness.applier
    applier.__class__ = Applier
    async with InboxWorker.running(
        database, applier, grace=5, heartbeats=Heartbeats()
    ) as inbox_worker:
        for _ in range(3):
            await harness.receive(event())
            inbox_worker.wake()
            async with asyncio.timeout(30):
                await ended.wait()
            ended.clear()
            # The pipeline rests now. The notification of this one finds it so, and then there is
            # silence.
            await harness.receive(event())
            inbox_worker.wake()
            async with asyncio.timeout(30):
                await ended.wait()
            ended.clear()
    async with database.connection() as connection:
        assert (await inbox.backlog(connection)).pending == 0
