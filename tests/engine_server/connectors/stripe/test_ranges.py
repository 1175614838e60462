"""Algebra of ranges, compared with plain sets of their seconds."""

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from engine_server.connectors.stripe.lists.ranges import (
    Range,
    difference,
    intersection,
    remaining_ranges,
)

LAST = 60
SETTLING = 10
bounds = st.none() | st.integers(0, LAST)


# Any bounds: ranges may overlap, touch, contain each other, and be empty.
ranges = st.builds(Range, gte=bounds, lt=bounds)
begun_ranges = st.builds(Range, gte=bounds, lt=bounds, cursor=st.none() | st.just("after"))


@st.composite
def checkpoints(draw: st.DrawFn) -> tuple[Range, list[Range]]:
    """Draw a window and its possible rest: disjoint ranges, some of them with a cursor."""
    accounted = draw(ranges)
    low = -1 if accounted.gte is None else accounted.gte
    high = LAST + 1 if accounted.lt is None else accounted.lt
    borders = sorted(draw(st.sets(st.integers(low, max(low, high)), max_size=6)))
    remaining = [
        Range(
            # A range that reaches the end of the window is as unbounded there as the window.
            gte=accounted.gte if gte == low else gte,
            lt=accounted.lt if lt == high else lt,
            cursor=draw(st.none() | st.just(f"after_{gte}")),
        )
        for gte, lt in zip(borders[::2], borders[1::2], strict=False)
    ]
    return accounted, remaining


def seconds(parts: Iterable[Range]) -> list[int]:
    """Return every second of the ranges, with repetitions; far seconds stand for no bound."""
    far = range(-SETTLING - 2, LAST + SETTLING + 2)
    return sorted(second for second in far for part in parts if part.contains(second))


def unsettled(accounted: Range, window: Range) -> set[int]:
    """Return the seconds of the previous window in which more objects may have appeared."""
    if accounted.lt is None or (window.lt is not None and window.lt <= accounted.lt):
        return set()
    return set(range(accounted.lt - SETTLING, accounted.lt))


@given(window=ranges, parts=st.lists(begun_ranges, max_size=5))
def test_a_difference_holds_what_is_in_none_of_the_parts_once(
    window: Range, parts: list[Range]
) -> None:
    left = difference(window, parts)
    assert seconds(left) == sorted(set(seconds([window])) - set(seconds(parts)))
    assert not any(piece.is_empty or piece.cursor for piece in left)
    assert list(left) == sorted(left, key=lambda piece: -min(seconds([piece])))


@given(part=begun_ranges, window=ranges)
def test_an_intersection_holds_what_is_in_both(part: Range, window: Range) -> None:
    both = intersection(part, window)
    expected = set(seconds([part])) & set(seconds([window]))
    assert seconds([] if both is None else [both]) == sorted(expected)
    assert both is None or not both.is_empty


@given(part=ranges, window=ranges)
def test_a_cursor_stays_only_where_the_bounds_do(part: Range, window: Range) -> None:
    begun = part.with_cursor("after")
    both = intersection(begun, window)
    if both is not None:
        same_bounds = (both.gte, both.lt) == (part.gte, part.lt)
        assert both.cursor == ("after" if same_bounds else None)


@given(checkpoint=checkpoints(), window=ranges)
def test_the_rest_of_a_new_window_is_each_unsettled_second_once(
    checkpoint: tuple[Range, list[Range]], window: Range
) -> None:
    accounted, remaining = checkpoint
    remaining = [part for part in remaining if part.is_bounded]
    settled = set(seconds([accounted])) - set(seconds(remaining)) - unsettled(accounted, window)
    left = seconds(remaining_ranges(accounted, remaining, window))
    assert set(left) == set(seconds([window])) - settled
    # A part with a cursor keeps it, so the seconds that may still settle are added separately.
    twice = {second for second in left if left.count(second) > 1}
    assert twice <= unsettled(accounted, window)


@given(accounted=ranges, remaining=st.lists(begun_ranges, max_size=5), window=ranges)
def test_every_unsettled_second_is_left_for_any_checkpoint(
    accounted: Range, remaining: list[Range], window: Range
) -> None:
    left = remaining_ranges(accounted, remaining, window)
    unbounded = [part for part in remaining if not part.is_bounded]
    assert [part for part in left if not part.is_bounded][: len(unbounded)] == unbounded
    bounded = [part for part in remaining if part.is_bounded]
    settled = set(seconds([accounted])) - set(seconds(bounded)) - unsettled(accounted, window)
    found = set(seconds(left[len(unbounded) :]))
    assert found == set(seconds([window])) - settled
    begun = {part for part in left if part.cursor is not None}
    assert begun <= set(remaining)


@given(checkpoint=checkpoints())
def test_an_unchanged_window_keeps_the_rest(checkpoint: tuple[Range, list[Range]]) -> None:
    accounted, remaining = checkpoint
    assert set(remaining_ranges(accounted, remaining, accounted)) == set(remaining)


@given(checkpoint=checkpoints(), window=ranges)
def test_computing_the_rest_twice_changes_nothing(
    checkpoint: tuple[Range, list[Range]], window: Range
) -> None:
    left = remaining_ranges(*checkpoint, window)
    assert remaining_ranges(window, left, window) == left


def test_the_rest_is_ordered_newest_first() -> None:
    remaining = [Range(gte=10, lt=20, cursor="a"), Range(gte=40, lt=50)]
    assert remaining_ranges(Range(gte=10, lt=50), remaining, Range(gte=10, lt=60)) == (
        Range(gte=50, lt=60),
        Range(gte=40, lt=50),
        Range(gte=10, lt=20, cursor="a"),
    )


def test_an_unfiltered_list_continues_and_newer_ranges_are_added() -> None:
    begun = Range(cursor="after")
    assert remaining_ranges(Range(lt=100), [begun], Range(lt=200)) == (begun, Range(gte=90, lt=200))


def test_the_last_seconds_of_a_previous_window_are_reread_despite_a_cursor() -> None:
    begun = Range(gte=0, lt=100, cursor="after")
    left = remaining_ranges(Range(gte=0, lt=100), [begun], Range(gte=0, lt=200))
    assert left == (Range(gte=90, lt=200), begun)


def test_a_window_without_time_leaves_nothing() -> None:
    assert remaining_ranges(Range(lt=100), [Range(gte=20, lt=90)], Range(gte=50, lt=50)) == ()
    assert remaining_ranges(Range(gte=80, lt=20), [], Range(gte=80, lt=20)) == ()
