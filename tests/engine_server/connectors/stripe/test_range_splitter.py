"""Splitting of ranges."""

import itertools
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine_server.connectors.stripe.backfill.range_splitter import (
    PACED,
    UNPACED,
    Capacity,
    RangeSplitter,
)
from engine_server.connectors.stripe.lists.ranges import Range

SINCE = 1_000_000
PAGE = 100
MUCH_CAPACITY = Capacity(parts=20, slots=21, pages=0)


def even_page(oldest: int, seconds: int) -> list[int]:
    """Return the times of a full page with objects at equal distances, newest first."""
    return [oldest + seconds * (PAGE - 1 - index) // (PAGE - 1) for index in range(PAGE)]


def split(
    times: Sequence[int],
    *,
    scope: Range,
    capacity: Capacity = MUCH_CAPACITY,
    splitter: RangeSplitter | None = None,
    open_ranges: int = 0,
) -> tuple[Range, ...]:
    """Return the ranges left after the first page of a window."""
    splitter = splitter or RangeSplitter(page_size=PAGE, since=SINCE)
    rest = Range(gte=scope.gte, lt=scope.lt, cursor="last")
    return splitter.split(scope, rest, scope, times, capacity, open_ranges=open_ranges)


WINDOW = Range(gte=SINCE, lt=SINCE + 2_000_000)
LONG = even_page(SINCE + 1_999_000, 1_000)


@given(
    oldest=st.integers(1, 2_000_000),
    seconds=st.integers(0, 5_000),
    has_start=st.booleans(),
    parts=st.integers(0, 40),
    pages=st.floats(0, 1e6),
)
def test_parts_cover_the_rest_without_overlap_and_the_first_continues(
    oldest: int, seconds: int, has_start: bool, parts: int, pages: float
) -> None:
    times = even_page(SINCE + oldest, seconds)
    scope = Range(gte=SINCE if has_start else None, lt=times[0] + 1)
    capacity = Capacity(parts=parts, slots=parts + 1, pages=pages)
    result = split(times, scope=scope, capacity=capacity)
    assert 1 <= len(result) <= 1 + parts
    assert (result[0].lt, result[-1].gte) == (scope.lt, scope.gte)
    assert [part.cursor for part in result] == ["last", *[None] * (len(result) - 1)]
    for newer, older in itertools.pairwise(result):
        assert newer.gte == older.lt
    assert not any(part.is_empty for part in result)
    # The cursor's own object lies in the part that continues from it.
    assert result[0].contains(times[-1])


def test_a_long_history_is_split_into_few_parts_first_and_more_later() -> None:
    splitter = RangeSplitter(page_size=PAGE, since=SINCE)
    first = split(LONG, scope=WINDOW, splitter=splitter)
    assert 2 < len(first) <= 7
    # Pages arrive as expected.
    for _ in range(100):
        splitter.advance(first[0], first[0], PAGE)
    times = even_page(first[-1].lt - 1_001, 1_000) if first[-1].lt else []
    later = splitter.split(
        first[-1], first[-1], first[-1], times, MUCH_CAPACITY, open_ranges=len(first) - 1
    )
    assert len(later) > len(first)


def test_without_a_rate_limit_a_long_history_is_split_into_many_parts() -> None:
    spared = split(LONG, scope=WINDOW, capacity=replace(MUCH_CAPACITY, budget=PACED))
    lavished = split(LONG, scope=WINDOW, capacity=replace(MUCH_CAPACITY, budget=UNPACED))
    assert len(spared) <= 7
    assert len(lavished) == 1 + MUCH_CAPACITY.parts


def test_the_parts_next_to_the_page_are_the_smallest() -> None:
    result = split(LONG, scope=Range(gte=None, lt=WINDOW.lt))
    lengths = [part.lt - part.gte for part in result[1:-1] if part.lt and part.gte]
    assert len(lengths) > 1
    # Split points are whole seconds.
    assert all(newer <= older + 1 for newer, older in itertools.pairwise(lengths))


def test_a_sparse_rest_is_not_split() -> None:
    times = even_page(SINCE + 1_500, 1_000)
    assert len(split(times, scope=Range(gte=SINCE, lt=times[0] + 1))) == 1


def test_no_range_is_split_without_capacity() -> None:
    assert len(split(LONG, scope=WINDOW, capacity=Capacity(parts=0, slots=8, pages=0))) == 1


def test_a_range_is_not_split_beside_much_larger_ones() -> None:
    assert len(split(LONG, scope=WINDOW, capacity=Capacity(parts=5, slots=8, pages=100_000))) == 1


def test_no_split_costs_more_than_its_share_of_the_pages() -> None:
    splitter = RangeSplitter(page_size=PAGE, since=SINCE)
    # Twenty requests have returned no objects.
    for _ in range(20):
        splitter.finish(Range(), 0)
    assert len(split(LONG, scope=WINDOW, splitter=splitter)) == 1


def test_a_burst_at_the_top_of_a_page_does_not_inflate_the_density() -> None:
    burst = [SINCE + 2_000_000] * 40
    times = [*burst, *even_page(SINCE + 1_000_000, 900_000)[-60:]]
    assert len(split(times, scope=Range(gte=SINCE, lt=times[0] + 1))) == 1


@pytest.mark.parametrize("is_first", [True, False])
def test_a_second_of_many_pages_is_read_in_parallel_with_older_objects(is_first: bool) -> None:
    splitter = RangeSplitter(page_size=PAGE, since=SINCE)
    part = Range(gte=SINCE, lt=SINCE + 2_000_000)
    if not is_first:
        # Many pages are expected in the rest of the range.
        part = split(
            LONG, scope=part, capacity=Capacity(parts=0, slots=1, pages=0), splitter=splitter
        )[0]
    second = SINCE + 1_500_000
    result = splitter.split(part, part, part, [second] * PAGE, MUCH_CAPACITY, open_ranges=0)
    if is_first:
        # The density of older objects is unknown.
        assert len(result) == 1
    else:
        assert [(r.gte, r.lt) for r in result] == [(second, part.lt), (SINCE, second)]


def test_the_estimate_of_a_part_is_dropped_when_it_ends() -> None:
    splitter = RangeSplitter(page_size=PAGE, since=SINCE)
    parts = split(LONG, scope=WINDOW, splitter=splitter)
    assert splitter.pages == pytest.approx(1_999, rel=0.05)
    for part in parts:
        splitter.finish(part, PAGE)
    assert splitter.pages == 0
