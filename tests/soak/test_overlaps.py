"""Overlaps found in the logs of engines, wherever their syncs ended."""

import math
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.processes import ServerProcess
from tests.soak.mortal import Life, MortalServer, Stop
from tests.soak.overlaps import late_commits, overlaps, spans


def logged(
    event: str, second: float, call: str, pipeline: str = "acme", inputs: int = 0
) -> dict[str, Any]:
    return {
        "inputs": inputs,
        "event": event,
        "pipeline_id": pipeline,
        "request_id": call,
        "run_id": "",
        "timestamp": datetime.fromtimestamp(second, UTC).isoformat(),
    }


def sync(
    start: float, end: float, call: str, pipeline: str = "acme", inputs: int = 0
) -> list[dict[str, Any]]:
    return [
        logged("sync_started", start, call, pipeline, inputs),
        logged("sync_ended", end, call, pipeline),
    ]


def engine(
    *events: dict[str, Any], killed_at: float | None = None, stops: list[Stop] | None = None
) -> MortalServer:
    process = ServerProcess("engine_server", [], {})
    process.events.extend(events)
    made = MortalServer("engine_server")
    made.lives.append(Life(process, killed_at))
    made.stops.extend(stops or [])
    return made


def test_syncs_that_follow_each_other_or_are_of_two_pipelines_do_not_overlap() -> None:
    one = engine(*sync(1, 2, "a"), *sync(3, 4, "b"))
    two = engine(*sync(2, 3, "c"), *sync(1, 4, "d", "other"))
    assert len(spans(one) + spans(two)) == 4
    assert overlaps(spans(one) + spans(two)) == []


@pytest.mark.parametrize("at_one_engine", [True, False])
def test_two_syncs_at_once_overlap(at_one_engine: bool) -> None:
    first, second = sync(1, 5, "a"), sync(2, 4, "b")
    if at_one_engine:
        found = spans(engine(first[0], *second, first[1]))
    else:
        found = spans(engine(*first)) + spans(engine(*second))
    [overlap] = overlaps(found)
    assert overlap.seconds_awake == 2
    assert overlap.seconds_after_waking == math.inf


def test_a_sync_ends_with_its_engine() -> None:
    dead = engine(logged("sync_started", 1, "a"), killed_at=2)
    assert overlaps(spans(dead) + spans(engine(*sync(2.5, 3, "b")))) == []
    [overlap] = overlaps(spans(dead) + spans(engine(*sync(1.5, 3, "b"))))
    assert overlap.seconds_awake == 0.5


def test_a_sync_that_does_not_end_is_not_overlooked() -> None:
    with pytest.raises(AssertionError, match="a sync of acme never ended"):
        spans(engine(logged("sync_started", 1, "a")))


def test_an_engine_that_stands_still_does_nothing_meanwhile() -> None:
    still = engine(*sync(1, 9.25, "a"), stops=[Stop(2, 9)])
    [overlap] = overlaps(spans(still) + spans(engine(*sync(6, 10, "b"))))
    assert overlap.seconds_awake == 0.25
    [overlap] = overlaps(spans(still) + spans(engine(*sync(1.5, 10, "b"))))
    assert overlap.seconds_awake == 0.75


@pytest.mark.parametrize(
    ("second", "seconds"),
    [(6, 0.5), (9.125, 0.5), (9.25, 0.25), (1.5, math.inf)],
    ids=["meanwhile", "after waking", "at a later stop", "before"],
)
def test_a_sync_that_stood_still_as_another_began_goes_on_for_a_while_after_it_wakes(
    second: float, seconds: float
) -> None:
    still = engine(*sync(1, 11.5, "a"), stops=[Stop(2, 9), Stop(9.25, 11.25)])
    [overlap] = overlaps(spans(still) + spans(engine(*sync(second, 12, "b"))))
    assert overlap.seconds_after_waking == seconds


def test_a_commit_after_the_end_of_its_sync_is_found() -> None:
    commit = logged("flush_committed", 3, "a")
    first, second = sync(1, 2.5, "a"), sync(2.75, 4, "a")
    assert late_commits(engine(*first, commit)) == [0.5]
    assert late_commits(engine(*first, second[0], commit, second[1])) == []


def test_events_overlap_with_events_alone() -> None:
    history, events = sync(0, 10, "history"), sync(2, 4, "events", inputs=3)
    assert overlaps(spans(engine(*history, *events))) == []
    more = sync(3, 5, "more events", inputs=1)
    [overlap] = overlaps(spans(engine(*history, *events, *more)))
    assert (overlap.first.start, overlap.second.start) == (2, 3)
