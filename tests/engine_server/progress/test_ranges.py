"""Merged time ranges, compared with the set of seconds that they contain."""

from itertools import pairwise
from math import inf

from hypothesis import given
from hypothesis import strategies as st

from engine_server.progress.ranges import RangeSet
from pipesync.v1.catalog_pb2 import TimeRange
from tests.messages import seconds

LEAST, MOST = -2, 22
MOMENTS = range(LEAST, MOST)


def moments(time_range: TimeRange) -> set[int]:
    """Return the seconds in a range, with open bounds at the limits of this test."""
    gte = time_range.gte.ToSeconds() if time_range.HasField("gte") else LEAST
    lt = time_range.lt.ToSeconds() if time_range.HasField("lt") else MOST
    return {moment for moment in MOMENTS if gte <= moment < lt}


BOUND = st.none() | st.integers(min_value=0, max_value=20)
RANGES = st.lists(st.builds(seconds, BOUND, BOUND), max_size=12)


@given(RANGES)
def test_a_set_covers_exactly_the_added_ranges(ranges: list[TimeRange]) -> None:
    covered = [moment for merged in RangeSet(ranges) for moment in moments(merged)]
    assert set(covered) == set().union(*map(moments, ranges))
    assert len(covered) == len(set(covered))


@given(RANGES)
def test_ranges_are_in_order_and_neither_overlap_nor_touch(ranges: list[TimeRange]) -> None:
    merged = list(RangeSet(ranges))
    for one, next_one in pairwise(merged):
        assert one.HasField("lt")
        assert next_one.HasField("gte")
        assert one.lt.ToSeconds() < next_one.gte.ToSeconds()


@given(RANGES)
def test_the_order_of_adding_does_not_matter(ranges: list[TimeRange]) -> None:
    assert list(RangeSet(ranges)) == list(RangeSet(reversed(ranges)))


@given(RANGES)
def test_a_set_of_its_own_ranges_is_equal(ranges: list[TimeRange]) -> None:
    merged = list(RangeSet(ranges))
    assert list(RangeSet(merged)) == merged


# The full range of a Timestamp, and times close enough for ranges to be adjacent.
NANOSECONDS = (
    st.none() | st.integers(0, 9) | st.integers(-62_135_596_800 * 10**9, 253_402_300_799 * 10**9)
)


@given(st.lists(st.tuples(NANOSECONDS, NANOSECONDS), max_size=8))
def test_ranges_are_exact_to_the_nanosecond(bounds: list[tuple[int | None, int | None]]) -> None:
    merged: list[tuple[float, float]] = []
    whole = [(-inf if gte is None else gte, inf if lt is None else lt) for gte, lt in bounds]
    for gte, lt in sorted((gte, lt) for gte, lt in whole if gte < lt):
        if merged and gte <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(lt, merged[-1][1]))
        else:
            merged.append((gte, lt))
    assert list(RangeSet(nanoseconds(gte, lt) for gte, lt in bounds)) == [
        nanoseconds(None if gte == -inf else int(gte), None if lt == inf else int(lt))
        for gte, lt in merged
    ]


def nanoseconds(gte: int | None, lt: int | None) -> TimeRange:
    time_range = TimeRange()
    if gte is not None:
        time_range.gte.FromNanoseconds(gte)
    if lt is not None:
        time_range.lt.FromNanoseconds(lt)
    return time_range


def test_adjacent_ranges_become_one() -> None:
    assert list(RangeSet([seconds(5, 7), seconds(1, 3), seconds(3, 5)])) == [seconds(1, 7)]


def test_an_empty_range_changes_nothing() -> None:
    assert list(RangeSet([seconds(3, 3), seconds(5, 4)])) == []


def test_open_bounds_merge_all_ranges_they_cover() -> None:
    ranges = RangeSet([seconds(1, 2), seconds(8, 9), seconds(None, 4), seconds(6, None)])
    assert list(ranges) == [seconds(None, 4), seconds(6, None)]
    ranges.add(seconds())
    assert list(ranges) == [seconds()]


def test_nanoseconds_are_kept() -> None:
    early, late = seconds(1, 2), seconds(2, 3)
    early.lt.nanos = 1
    late.gte.nanos = 2
    assert list(RangeSet([early, late])) == [early, late]
    late.gte.nanos = 1
    assert list(RangeSet([early, late])) == [seconds(1, 3)]
