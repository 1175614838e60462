import itertools

from hypothesis import given
from hypothesis import strategies as st

from engine_server.connectors.stripe.ranges import Range
from engine_server.connectors.stripe.splitting import split

NOW = 1_800_000_000


@given(
    gte=st.none() | st.integers(0, NOW),
    ages=st.tuples(st.integers(0, 10**8), st.integers(0, 10**8), st.integers(1, 10**8)),
    parts=st.integers(-3, 40),
    is_open=st.booleans(),
)
def test_parts_cover_the_range_without_overlap_and_the_cursor_stays_in_the_first(
    gte: int | None, ages: tuple[int, int, int], parts: int, is_open: bool
) -> None:
    newest = NOW - ages[0]
    oldest = newest - ages[1]
    if gte is not None:
        gte = min(gte, oldest)
    rest = Range(gte=gte, lt=None if is_open else newest + ages[2], cursor="last")
    result = split(rest, newest=newest, oldest=oldest, parts=parts)
    assert 1 <= len(result) <= max(1, parts)
    assert (result[0].lt, result[-1].gte) == (rest.lt, rest.gte)
    assert result[0].contains(oldest)
    assert [part.cursor for part in result] == ["last"] + [None] * (len(result) - 1)
    for newer, older in itertools.pairwise(result):
        assert newer.gte == older.lt
        assert older.gte is None or (older.lt is not None and older.gte < older.lt)


def test_a_range_worth_few_pages_is_not_cut() -> None:
    # 100 seconds a page, 1,900 seconds left: 19 pages, too few for two parts of ten.
    rest = Range(gte=8_000, lt=10_000, cursor="last")
    assert split(rest, newest=10_000, oldest=9_900, parts=16) == (rest,)


def test_parts_are_equally_wide_where_that_reaches() -> None:
    rest = Range(gte=0, lt=10_000, cursor="last")
    assert split(rest, newest=9_999, oldest=9_900, parts=3) == (
        Range(gte=6_600, lt=10_000, cursor="last"),
        Range(gte=3_300, lt=6_600),
        Range(gte=0, lt=3_300),
    )


def test_one_dense_page_does_not_decide_over_years() -> None:
    rest = Range(gte=0, lt=NOW, cursor="last")
    parts = split(rest, newest=NOW - 1, oldest=NOW - 101, parts=4)
    assert [NOW - 101 - (part.gte or 0) for part in parts[:3]] == [5_000, 10_000, 15_000]
    assert parts[3].gte == 0
