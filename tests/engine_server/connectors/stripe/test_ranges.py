import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from engine_server.connectors.stripe.ranges import Range, difference, intersection, reconcile

LAST = 60
SETTLING = 10
bounds = st.none() | st.integers(0, LAST)


@st.composite
def ranges(draw: st.DrawFn) -> Range:
    gte, lt = draw(bounds), draw(bounds)
    if gte is not None and lt is not None and gte >= lt:
        gte, lt = lt, gte + 1
    return Range(gte=gte, lt=lt)


@st.composite
def checkpoints(draw: st.DrawFn) -> tuple[Range, list[Range]]:
    """A window, and what was left of it: disjoint ranges, some of them begun."""
    accounted = draw(ranges())
    low = 0 if accounted.gte is None else accounted.gte
    high = LAST if accounted.lt is None else accounted.lt
    cuts = sorted(draw(st.sets(st.integers(low, high), max_size=6)))
    remaining = [
        Range(gte=gte, lt=lt, cursor=draw(st.none() | st.just(f"after_{gte}")))
        for gte, lt in zip(cuts[::2], cuts[1::2], strict=False)
    ]
    return accounted, remaining


def seconds(parts: Range | tuple[Range, ...] | list[Range]) -> list[int]:
    """Every second in the ranges, as often as it is in one; far seconds stand for no bound."""
    listed = [parts] if isinstance(parts, Range) else parts
    return sorted(s for s in range(-SETTLING, LAST + SETTLING) for p in listed if p.contains(s))


@given(window=ranges(), parts=st.lists(ranges(), max_size=5))
def test_a_difference_holds_what_is_in_none_of_the_parts_once(
    window: Range, parts: list[Range]
) -> None:
    expected = set(seconds(window)) - set(seconds(parts))
    assert seconds(difference(window, parts)) == sorted(expected)


@given(part=ranges(), window=ranges())
def test_an_intersection_holds_what_is_in_both(part: Range, window: Range) -> None:
    both = intersection(part, window)
    expected = set(seconds(part)) & set(seconds(window))
    assert seconds([] if both is None else [both]) == sorted(expected)


@given(part=ranges(), window=ranges())
def test_a_cursor_stays_only_where_the_bounds_do(part: Range, window: Range) -> None:
    begun = dataclasses.replace(part, cursor="after")
    both = intersection(begun, window)
    if both is not None:
        same_bounds = (both.gte, both.lt) == (part.gte, part.lt)
        assert both.cursor == ("after" if same_bounds else None)


@given(checkpoint=checkpoints(), window=ranges())
def test_what_is_left_of_a_new_window_is_all_that_was_not_settled(
    checkpoint: tuple[Range, list[Range]], window: Range
) -> None:
    accounted, remaining = checkpoint
    settled = set(seconds(accounted)) - set(seconds(remaining))
    if accounted.lt is not None and (window.lt is None or window.lt > accounted.lt):
        settled -= set(range(accounted.lt - SETTLING, accounted.lt))
    left = reconcile(accounted, remaining, window)
    assert seconds(left) == sorted(set(seconds(window)) - settled)


@given(checkpoint=checkpoints())
def test_an_unchanged_window_leaves_what_was_left(checkpoint: tuple[Range, list[Range]]) -> None:
    accounted, remaining = checkpoint
    assert set(reconcile(accounted, remaining, accounted)) == set(remaining)


def test_what_is_left_is_read_newest_first() -> None:
    remaining = [Range(gte=10, lt=20, cursor="a"), Range(gte=40, lt=50)]
    assert reconcile(Range(gte=10, lt=50), remaining, Range(gte=10, lt=60)) == (
        Range(gte=50, lt=60),
        Range(gte=40, lt=50),
        Range(gte=10, lt=20, cursor="a"),
    )


def test_a_list_read_without_a_filter_goes_on_and_what_is_newer_is_added() -> None:
    begun = Range(cursor="after")
    assert reconcile(Range(lt=100), [begun], Range(lt=200)) == (begun, Range(gte=90, lt=200))
