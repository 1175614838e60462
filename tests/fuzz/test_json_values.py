"""Edits of JSON values."""

from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.json_values import edited, nested


@given(st.lists(st.tuples(st.just("put"), st.integers(0, 50), st.just(nested(3))), max_size=6))
def test_an_edit_changes_neither_what_it_is_given_nor_itself(made: list[object]) -> None:
    before = {"a": [1, {"b": None}]}
    edited(before, made)
    assert before == {"a": [1, {"b": None}]}
    assert edited(nested(3), [("put", 0, nested(3))]) == nested(3)
    assert all(one[2] == nested(3) for one in made)  # type: ignore[index]  # they are tuples
