from typing import Any

import jsonschema
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine_server.connectors.stripe.backfill.checkpoint import (
    CHECKPOINT_SCHEMA,
    Checkpoint,
    resume,
)
from engine_server.connectors.stripe.lists.ranges import Range
from engine_server.errors import ConnectorError

WINDOW = Range(gte=100, lt=200)

moments = st.integers(-(2**40), 2**40)
borders = st.lists(moments, min_size=2, max_size=12, unique=True).map(sorted)
cursors = st.none() | st.text(max_size=8)


@st.composite
def checkpoints(draw: st.DrawFn) -> Checkpoint:
    """Draw a checkpoint that the source can reach: disjoint ranges in a window, newest first."""
    lowers_and_uppers = draw(borders)
    pairs = list(zip(lowers_and_uppers[::2], lowers_and_uppers[1::2], strict=False))
    remaining = [Range(gte=gte, lt=lt, cursor=draw(cursors)) for gte, lt in reversed(pairs)]
    begun = draw(cursors.map(lambda cursor: [Range(cursor=cursor)]) | st.just([]))
    window = Range(
        gte=draw(st.sampled_from([None, lowers_and_uppers[0], lowers_and_uppers[0] - 5])),
        lt=draw(st.sampled_from([None, lowers_and_uppers[-1], lowers_and_uppers[-1] + 5])),
    )
    if (*begun, *remaining) == (window,):
        # An unread stream.
        return resume("customers", "", window)
    return Checkpoint(
        accounted=window,
        remaining=(*begun, *remaining),
        record_count=draw(st.integers(0, 2**60)),
        backfill_lt=draw(st.none() | moments),
    )


# Mostly valid, so that only one thing at a time is invalid.
leaves = st.none() | st.booleans() | moments | st.floats(0.1, 0.9) | st.text(max_size=3)
values = st.recursive(leaves, lambda some: st.lists(some, max_size=2), max_leaves=3)
range_fields = st.dictionaries(
    st.sampled_from(["gte", "lt", "cursor", "other"]), moments | st.text(max_size=3) | values
)
checkpoint_fields = st.fixed_dictionaries(
    {},
    optional={
        "accounted_range": range_fields | values,
        "remaining": st.lists(range_fields | values, max_size=2) | values,
        "record_count": moments | values,
        "backfill_lt": moments | values,
        "other": values,
    },
)


def test_a_guessed_end_takes_nothing_back() -> None:
    stored = Checkpoint(
        accounted=WINDOW, remaining=(Range(gte=120, lt=140, cursor="cus_1"),), record_count=7
    )
    guess = Range(gte=100, lt=130)
    for begins_run in (True, False):
        resumed = resume(
            "customers", stored.to_json(), guess, begins_run=begins_run, is_guessed=True
        )
        assert (resumed.accounted, resumed.record_count) == (WINDOW, 7)
        # A new run sends a request, which makes the time known.
        again = (Range(gte=180, lt=200),) if begins_run else ()
        assert resumed.remaining == (*again, *stored.remaining)
    # A later one is equally valid.
    later = resume("customers", stored.to_json(), Range(gte=100, lt=250), is_guessed=True)
    assert later == resume("customers", stored.to_json(), Range(gte=100, lt=250))


def test_the_part_ahead_of_a_guessed_end_is_left_to_the_next_run() -> None:
    ahead = Range(gte=140, lt=200)
    stored = Checkpoint(accounted=Range(gte=100, lt=150), remaining=(ahead,)).to_json()
    guess = Range(gte=100, lt=130)
    assert resume("customers", stored, guess, is_guessed=True).unread == ()
    begun = resume("customers", stored, guess, is_guessed=True, begins_run=True)
    assert begun.unread == (ahead,)


def test_a_guessed_end_before_the_start_leaves_one_second() -> None:
    window = Range(gte=100, lt=60)
    assert resume("customers", "", window).unread == ()
    assert resume("customers", "", window, is_guessed=True).unread == (Range(gte=100, lt=101),)


def test_a_stream_without_a_checkpoint_has_its_whole_window_left() -> None:
    assert resume("customers", "", WINDOW) == Checkpoint(
        accounted=WINDOW, remaining=(WINDOW,), backfill_lt=WINDOW.lt
    )


def test_a_window_without_time_leaves_nothing_to_read() -> None:
    window = Range(gte=200, lt=100)
    assert resume("customers", "", window).remaining == ()


@given(checkpoint=checkpoints())
def test_a_checkpoint_round_trips_through_json(checkpoint: Checkpoint) -> None:
    text = checkpoint.to_json()
    jsonschema.validate(orjson.loads(text), CHECKPOINT_SCHEMA)
    assert resume("customers", text, checkpoint.accounted) == checkpoint


@given(fields=checkpoint_fields | values)
def test_exactly_the_checkpoints_outside_the_schema_are_refused(fields: Any) -> None:
    data = orjson.dumps(fields).decode()
    if is_allowed(fields):
        resume("customers", data, WINDOW)
    else:
        with pytest.raises(ConnectorError, match="checkpoint of stream customers"):
            resume("customers", data, WINDOW)


def is_allowed(fields: Any) -> bool:
    return bool(jsonschema.Draft202012Validator(CHECKPOINT_SCHEMA).is_valid(fields))


@given(checkpoint=checkpoints(), data=st.data())
def test_a_text_cut_short_is_refused(checkpoint: Checkpoint, data: st.DataObject) -> None:
    text = checkpoint.to_json()
    part = text[: data.draw(st.integers(1, len(text) - 1))]
    with pytest.raises(ConnectorError, match="checkpoint of stream customers"):
        resume("customers", part, WINDOW)


@pytest.mark.parametrize(
    "checkpoint",
    [
        Checkpoint(accounted=WINDOW, remaining=()),
        Checkpoint(accounted=Range(lt=5), remaining=(Range(cursor="x"), Range(gte=1, lt=5))),
        Checkpoint(accounted=Range(lt=5), remaining=(), record_count=7, backfill_lt=3),
    ],
)
def test_its_text_is_compact_and_fits_the_schema(checkpoint: Checkpoint) -> None:
    text = checkpoint.to_json()
    jsonschema.validate(orjson.loads(text), CHECKPOINT_SCHEMA)
    assert " " not in text


def test_a_page_replaces_its_range_and_changes_no_earlier_checkpoint() -> None:
    before = resume("customers", "", WINDOW)
    text = before.to_json()
    after = before.after(WINDOW, (Range(gte=150, lt=200, cursor="c"), Range(gte=100, lt=150)), 100)
    assert after.remaining == (Range(gte=150, lt=200, cursor="c"), Range(gte=100, lt=150))
    assert after.record_count == 100
    assert before.to_json() == text


def test_records_of_later_windows_do_not_count() -> None:
    first = resume("customers", "", WINDOW).after(WINDOW, (), 100)
    later_window = Range(gte=WINDOW.gte, lt=1_000)
    later = resume("customers", first.to_json(), later_window)
    [added] = later.remaining
    assert later.after(added, (), 40).record_count == 100


@pytest.mark.parametrize(
    "data", ["{", "[]", "{}", '{"accounted_range":{"gte":"1"},"remaining":[]}', '{"remaining":[]}']
)
def test_a_foreign_checkpoint_is_refused_naming_the_stream(data: str) -> None:
    with pytest.raises(ConnectorError, match=r"checkpoint of stream customers"):
        resume("customers", data, WINDOW)


def read_at(end: int, *, gte: int | None = 100, lt: int = 200) -> Checkpoint:
    """Return the checkpoint of a window whose only page was read."""
    window = Range(gte=gte, lt=lt)
    return resume("customers", "", window).after(window, (), 1, end)


@pytest.mark.parametrize(("end", "begin"), [(150, 140), (105, 100), (90, 100)])
def test_a_window_that_lies_ahead_is_accounted_for_up_to_the_read(end: int, begin: int) -> None:
    checkpoint = read_at(end)
    assert checkpoint.accounted == Range(gte=100, lt=max(end, 100))
    assert checkpoint.remaining == (checkpoint.ahead,) == (Range(gte=begin, lt=200),)
    assert (checkpoint.window, checkpoint.unread) == (Range(gte=100, lt=200), ())
    jsonschema.validate(orjson.loads(checkpoint.to_json()), CHECKPOINT_SCHEMA)


def test_the_part_ahead_waits_for_the_next_run_or_a_later_end() -> None:
    stored = read_at(150).to_json()
    same = Range(gte=100, lt=200)
    assert resume("customers", stored, same).unread == ()
    assert resume("customers", stored, same, begins_run=True).unread == (Range(gte=140, lt=200),)
    later = Range(gte=100, lt=260)
    assert resume("customers", stored, later).unread == (Range(gte=140, lt=260),)
    earlier = Range(gte=100, lt=160)
    assert resume("customers", stored, earlier).unread == (Range(gte=140, lt=160),)


def test_a_cursor_survives_the_part_ahead() -> None:
    window = Range(gte=100, lt=200)
    rest = window.with_cursor("cus_1")
    checkpoint = resume("customers", "", window).after(window, (rest,), 100, 150)
    assert checkpoint.unread == (rest,)
    again = resume("customers", checkpoint.to_json(), window)
    assert again == checkpoint
    assert again.after(rest, (), 100).accounted == Range(gte=100, lt=150)


def test_a_window_in_the_past_is_accounted_for_completely() -> None:
    assert read_at(200) == read_at(300)
    assert read_at(200).remaining == ()
