"""When pipelines may have turns, by times of the test's own; and a worker that forgets none."""

import asyncio
from datetime import timedelta

import pytest

from service_server.heartbeats import Heartbeats
from service_server.store import inbox
from service_server.store.database import Database
from service_server.webhooks import worker
from service_server.webhooks.applier import InboxApplier
from service_server.webhooks.turn_times import TurnTimes
from service_server.webhooks.worker import InboxWorker
from tests.service_server.webhooks.conftest import Parts
from tests.service_server.webhooks.deliveries import event


@pytest.fixture
def times() -> TurnTimes:
    return TurnTimes()


def test_a_pipeline_that_waits_is_due_at_once(times: TurnTimes) -> None:
    assert times.due(["a"], [], 10) == ["a"]
    assert times.seconds_to_next(["a"], 10) is None


def test_a_rest_is_looked_at_when_it_ends(times: TurnTimes) -> None:
    times.succeeded("a", 10.5)
    assert times.due(["a"], [], 10) == []
    assert times.seconds_to_next([], 10) == 0.5
    assert times.due(["a"], [], 10.5) == ["a"]


def test_a_rest_that_ended_since_the_last_look_is_not_forgotten(times: TurnTimes) -> None:
    times.succeeded("a", 10.01)
    assert times.due(["a"], [], 10) == []
    # The worker gathered until the rest was over.
    assert times.seconds_to_next([], 10.05) == 0
    assert times.due(["a"], [], 10.05) == ["a"]


def test_one_whose_turn_ended_since_the_last_look_is_not_forgotten(times: TurnTimes) -> None:
    assert times.due(["a"], [], 10) == ["a"]
    times.succeeded("a", 10.3)
    assert times.seconds_to_next([], 10.05) == pytest.approx(0.25)
    assert times.seconds_to_next([], 11) == 0


def test_a_rest_without_events_is_looked_at_once_more_and_then_forgotten(times: TurnTimes) -> None:
    times.succeeded("a", 10.5)
    assert times.due([], [], 10) == []
    assert times.seconds_to_next([], 10) == 0.5
    assert times.due([], [], 10.5) == []
    assert times.seconds_to_next([], 10.5) is None


def test_one_that_waits_for_room_is_not_looked_for_in_vain(times: TurnTimes) -> None:
    assert times.due(["a", "b"], [], 10) == ["a", "b"]
    # There was room for the first: its end wakes the worker.
    assert times.seconds_to_next(["a"], 10) is None
    times.succeeded("a", 11)
    assert times.due(["a", "b"], [], 10.5) == ["b"]


def test_those_that_could_longest_come_first(times: TurnTimes) -> None:
    times.succeeded("a", 12)
    times.succeeded("b", 11)
    assert times.due(["a", "b", "c"], [], 13) == ["c", "b", "a"]


def test_failures_count_up_until_a_success(times: TurnTimes) -> None:
    assert [times.failed("a"), times.failed("a")] == [1, 2]
    assert times.failed("a", failures=1) == 1
    times.succeeded("a", 10)
    assert times.failed("a") == 1


@pytest.mark.parametrize("rest", [0.01, 0.1, 0.2])
async def test_an_event_during_a_rest_that_ends_while_the_worker_gathers_is_applied(
    parts: Parts, database: Database, monkeypatch: pytest.MonkeyPatch, rest: float
) -> None:
    # Each look is followed by a longer time of gathering, and none is made in between for nothing.
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

    applier = parts.applier
    applier.__class__ = Applier
    async with InboxWorker.running(
        database, applier, retention=timedelta(days=1), grace=5, heartbeats=Heartbeats()
    ) as inbox_worker:
        for _ in range(3):
            await parts.take(event())
            inbox_worker.look()
            async with asyncio.timeout(30):
                await ended.wait()
            ended.clear()
            # The pipeline rests now. The notification of this one finds it so, and then there is
            # silence.
            await parts.take(event())
            inbox_worker.look()
            async with asyncio.timeout(30):
                await ended.wait()
            ended.clear()
    async with database.connection() as connection:
        assert (await inbox.backlog(connection)).pending == 0
