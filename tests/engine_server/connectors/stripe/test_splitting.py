"""Where ranges are cut, and where they are not."""

import itertools
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine_server.connectors.stripe.ranges import Range
from engine_server.connectors.stripe.splitting import LAVISH, SPARING, Room, Splitting

SINCE = 1_000_000
PAGE = 100
MUCH_ROOM = Room(parts=20, lanes=21, pages=0)


def even_page(oldest: int, seconds: int) -> list[int]:
    """The times of a full page whose objects were made at even distances, newest first."""
    return [oldest + seconds * (PAGE - 1 - index) // (PAGE - 1) for index in range(PAGE)]


def split(
    times: Sequence[int],
    *,
    scope: Range,
    room: Room = MUCH_ROOM,
    splitting: Splitting | None = None,
    open_parts: int = 0,
) -> tuple[Range, ...]:
    """What is left after the first page of a window."""
    splitting = splitting or Splitting(page_size=PAGE, since=SINCE)
    rest = Range(gte=scope.gte, lt=scope.lt, cursor="last")
    return splitting.split(scope, rest, scope, times, room, open_parts=open_parts)


WINDOW = Range(gte=SINCE, lt=SINCE + 2_000_000)
LONG = even_page(SINCE + 1_999_000, 1_000)


@given(
    oldest=st.integers(1, 2_000_000),
    seconds=st.integers(0, 5_000),
    has_start=st.booleans(),
    parts=st.integers(0, 40),
    pages=st.floats(0, 1e6),
)
def test_parts_cover_what_is_left_without_overlap_and_the_first_goes_on(
    oldest: int, seconds: int, has_start: bool, parts: int, pages: float
) -> None:
    times = even_page(SINCE + oldest, seconds)
    scope = Range(gte=SINCE if has_start else None, lt=times[0] + 1)
    room = Room(parts=parts, lanes=parts + 1, pages=pages)
    result = split(times, scope=scope, room=room)
    assert 1 <= len(result) <= 1 + parts
    assert (result[0].lt, result[-1].gte) == (scope.lt, scope.gte)
    assert [part.cursor for part in result] == ["last", *[None] * (len(result) - 1)]
    for newer, older in itertools.pairwise(result):
        assert newer.gte == older.lt
    assert not any(part.is_empty for part in result)
    # The cursor's own object lies in the part that goes on from it.
    assert result[0].contains(times[-1])


def test_a_long_history_is_cut_into_few_parts_first_and_into_more_as_pages_come() -> None:
    splitting = Splitting(page_size=PAGE, since=SINCE)
    first = split(LONG, scope=WINDOW, splitting=splitting)
    assert 2 < len(first) <= 7
    # Pages come as they were promised.
    for _ in range(100):
        splitting.keep(first[0], first[0], PAGE)
    times = even_page(first[-1].lt - 1_001, 1_000) if first[-1].lt else []
    later = splitting.split(
        first[-1], first[-1], first[-1], times, MUCH_ROOM, open_parts=len(first) - 1
    )
    assert len(later) > len(first)


def test_where_nobody_counts_requests_a_long_history_is_cut_into_many_parts_at_once() -> None:
    spared = split(LONG, scope=WINDOW, room=replace(MUCH_ROOM, budget=SPARING))
    lavished = split(LONG, scope=WINDOW, room=replace(MUCH_ROOM, budget=LAVISH))
    assert len(spared) <= 7
    assert len(lavished) == 1 + MUCH_ROOM.parts


def test_the_parts_next_to_what_was_seen_are_the_smallest() -> None:
    result = split(LONG, scope=Range(gte=None, lt=WINDOW.lt))
    lengths = [part.lt - part.gte for part in result[1:-1] if part.lt and part.gte]
    assert len(lengths) > 1
    # Borders are whole seconds.
    assert all(newer <= older + 1 for newer, older in itertools.pairwise(lengths))


def test_a_thin_rest_is_not_cut() -> None:
    times = even_page(SINCE + 1_500, 1_000)
    assert len(split(times, scope=Range(gte=SINCE, lt=times[0] + 1))) == 1


def test_nothing_is_cut_where_there_is_no_room() -> None:
    assert len(split(LONG, scope=WINDOW, room=Room(parts=0, lanes=8, pages=0))) == 1


def test_a_range_is_not_cut_beside_much_larger_ones() -> None:
    assert len(split(LONG, scope=WINDOW, room=Room(parts=5, lanes=8, pages=100_000))) == 1


def test_nothing_is_cut_that_costs_more_than_its_share_of_the_pages() -> None:
    splitting = Splitting(page_size=PAGE, since=SINCE)
    # Twenty requests have brought nothing.
    for _ in range(20):
        splitting.end(Range(), 0)
    assert len(split(LONG, scope=WINDOW, splitting=splitting)) == 1


def test_a_burst_at_the_top_of_a_page_does_not_make_what_follows_look_dense() -> None:
    burst = [SINCE + 2_000_000] * 40
    times = [*burst, *even_page(SINCE + 1_000_000, 900_000)[-60:]]
    assert len(split(times, scope=Range(gte=SINCE, lt=times[0] + 1))) == 1


@pytest.mark.parametrize("is_first", [True, False])
def test_a_second_of_many_pages_is_read_beside_what_is_older(is_first: bool) -> None:
    splitting = Splitting(page_size=PAGE, since=SINCE)
    part = Range(gte=SINCE, lt=SINCE + 2_000_000)
    if not is_first:
        # Much is thought to be left of the range.
        part = split(LONG, scope=part, room=Room(parts=0, lanes=1, pages=0), splitting=splitting)[0]
    second = SINCE + 1_500_000
    result = splitting.split(part, part, part, [second] * PAGE, MUCH_ROOM, open_parts=0)
    if is_first:
        # Nothing is known yet of what is older.
        assert len(result) == 1
    else:
        assert [(r.gte, r.lt) for r in result] == [(second, part.lt), (SINCE, second)]


def test_what_a_part_is_thought_to_hold_is_forgotten_when_it_ends() -> None:
    splitting = Splitting(page_size=PAGE, since=SINCE)
    parts = split(LONG, scope=WINDOW, splitting=splitting)
    assert splitting.pages == pytest.approx(1_999, rel=0.05)
    for part in parts:
        splitting.end(part, PAGE)
    assert splitting.pages == 0
