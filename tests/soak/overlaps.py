"""Times of each engine's syncs, by its own log, and overlapping syncs of a pipeline."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import combinations
from typing import Any

from tests.soak.mortal import Life, MortalServer, Stop


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Time of one sync.

    Attributes:
        pipeline_id: The id of its pipeline.
        start: When it began, Unix seconds.
        end: When it ended or its engine was killed, Unix seconds.
        stops: The times in which its engine was paused.
        is_of_events: Whether it applied pushed events, and read no history.
    """

    pipeline_id: str
    start: float
    end: float
    stops: Sequence[Stop] = ()
    is_of_events: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """Two syncs of one pipeline at the same time.

    Attributes:
        first: The one that began first.
        second: The other one.
    """

    first: Span
    second: Span

    @property
    def seconds_awake(self) -> float:
        """Return the seconds in which both ran and neither engine was paused."""
        stops = (*self.first.stops, *self.second.stops)
        return _seconds_awake(self.second.start, min(self.first.end, self.second.end), stops)

    @property
    def seconds_after_waking(self) -> float:
        """Return the seconds that the first sync ran on, unpaused, after its engine was paused.

        Only pauses that began before the second sync count; without any the result is infinite.
        """
        stops = self.first.stops
        return min(
            (
                _seconds_awake(stop.end, self.first.end, stops)
                for stop in stops
                if stop.start <= self.second.start
            ),
            default=math.inf,
        )


def _seconds_awake(start: float, end: float, stops: Iterable[Stop]) -> float:
    """Return the seconds of a time that lie in none of the stops."""
    within = sorted((max(stop.start, start), min(stop.end, end)) for stop in stops)
    awake, reached = 0.0, start
    for stopped_from, stopped_until in within:
        awake += max(0.0, stopped_from - reached)
        reached = max(reached, stopped_until)
    return awake + max(0.0, end - reached)


def spans(engine: MortalServer) -> list[Span]:
    """Return every sync of an engine that has ended."""
    return [span for life in engine.lives for span in _of_life(life, engine.stops)]


def overlaps(spans: Iterable[Span]) -> list[Overlap]:
    """Return every two syncs of one pipeline that ran at the same time.

    Pushed events are applied beside a sync of the history, but one call after the other.
    """
    by_pipeline = defaultdict[tuple[str, bool], list[Span]](list)
    for span in sorted(spans, key=lambda span: span.start):
        by_pipeline[span.pipeline_id, span.is_of_events].append(span)
    return [
        Overlap(first=first, second=second)
        for of_one in by_pipeline.values()
        for first, second in combinations(of_one, 2)
        if second.start < first.end
    ]


def late_commits(engine: MortalServer) -> list[float]:
    """Return by how many seconds each late commit was logged after the end of its sync."""
    return [seconds for life in engine.lives for seconds in _late_in_life(life)]


def _late_in_life(life: Life) -> list[float]:
    found: list[float] = []
    under_way = Counter[str]()
    ended: dict[str, float] = {}
    for event in life.process.events:
        if event["event"] == "sync_started":
            under_way[event["request_id"]] += 1
        elif event["event"] == "sync_ended":
            under_way[event["request_id"]] -= 1
            ended[event["request_id"]] = _time(event)
        elif event["event"] == "flush_committed" and not under_way[event["request_id"]]:
            found.append(_time(event) - ended[event["request_id"]])
    return found


def _of_life(life: Life, stops: Sequence[Stop]) -> list[Span]:
    found: list[Span] = []
    begun = defaultdict[tuple[str, str, str], list[dict[str, Any]]](list)
    for event in life.process.events:
        if event["event"] == "sync_started":
            begun[_key(event)].append(event)
        elif event["event"] == "sync_ended":
            found.append(_span(begun[_key(event)].pop(0), _time(event), stops))
    for (pipeline_id, _, _), started in begun.items():
        for event in started:
            assert life.killed_at is not None, f"a sync of {pipeline_id} never ended"
            found.append(_span(event, max(life.killed_at, _time(event)), stops))
    return found


def _span(started: dict[str, Any], end: float, stops: Sequence[Stop]) -> Span:
    start = _time(started)
    meanwhile = [stop for stop in stops if stop.start < end and stop.end > start]
    return Span(
        pipeline_id=started["pipeline_id"],
        start=start,
        end=end,
        stops=meanwhile,
        is_of_events=bool(started["inputs"]),
    )


def _key(event: dict[str, Any]) -> tuple[str, str, str]:
    return event["pipeline_id"], event["request_id"], event["run_id"]


def _time(event: dict[str, Any]) -> float:
    return datetime.fromisoformat(event["timestamp"]).timestamp()
