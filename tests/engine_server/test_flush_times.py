"""Recent flushes of a process's destinations."""

from engine_server import flush_times
from engine_server.flush_times import FlushTimes, RecentFlushes, seconds_for_flush
from pipesync.v1.catalog_pb2 import Connector
from tests.messages import struct


def recent(*seconds: float) -> RecentFlushes:
    """Return recent flushes with these durations."""
    flushes = RecentFlushes()
    for one in seconds:
        flushes.add(one)
    return flushes


def destination(url: str) -> Connector:
    """Return a destination's configuration."""
    return Connector(type="postgres", config=struct({"url": url}))


def test_the_estimate_is_the_second_longest_recent_flush() -> None:
    assert recent().estimate is None
    assert recent(3.0).estimate == 3.0
    assert recent(3.0, 0.1).estimate == 0.1
    assert recent(0.1, 3.0, 0.2).estimate == 0.2
    assert recent(3.0, 3.0, *[0.1] * 8).estimate == 0.1


def test_the_longest_flush_can_be_dropped() -> None:
    flushes = recent(0.1, 2.0, 3.0)
    flushes.forget_longest()
    assert flushes.estimate == 0.1
    for _ in range(3):
        flushes.forget_longest()
    assert flushes.estimate is None


def test_each_destination_has_its_own_flushes() -> None:
    times = FlushTimes()
    times.of(destination("postgresql://one")).add(2.0)
    assert times.of(destination("postgresql://one")).estimate == 2.0
    assert times.of(destination("postgresql://two")).estimate is None


def test_only_the_most_recently_used_destinations_are_kept() -> None:
    times = FlushTimes()
    for number in range(flush_times._KEPT_DESTINATIONS):
        times.of(destination(f"postgresql://{number}")).add(2.0)
    assert times.of(destination("postgresql://0")).estimate == 2.0
    times.of(destination("postgresql://new"))
    assert times.of(destination("postgresql://0")).estimate == 2.0
    assert times.of(destination("postgresql://1")).estimate is None


def test_a_flush_gets_at_most_half_of_a_limit() -> None:
    assert seconds_for_flush(10, None) == 0.1
    assert seconds_for_flush(0.1, None) == 0.05
    assert seconds_for_flush(10, 60.0) == 5
