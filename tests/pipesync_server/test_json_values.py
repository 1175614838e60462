"""Count of the values of a JSON text."""

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipesync_server import json_values
from pipesync_server.json_values import has_more_values
from tests.loop_blocks import MOST_SECONDS

_TEXTS = st.text(st.sampled_from(tuple(',:[]{}"\\aé')), max_size=8)
_VALUES = st.recursive(
    st.none() | st.integers() | _TEXTS,
    lambda children: st.lists(children) | st.dictionaries(_TEXTS, children),
    max_leaves=20,
)


def count(value: Any) -> int:
    match value:
        case list():
            return 1 + sum(map(count, value))
        case dict():
            return 1 + sum(map(count, value.values()))
    return 1


@pytest.mark.parametrize("at_once", [1, 2, 3, 7, 1024])
@given(value=_VALUES)
def test_values_are_counted_exactly(at_once: int, value: Any) -> None:
    """Regardless of the contents of strings, and of where the text is divided."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(json_values, "_BYTES_AT_ONCE", at_once)
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
        values = count(value)
        assert not has_more_values(text, values)
        assert has_more_values(text, values - 1) is (len(text) > 2 * (values - 1))


@given(value=_VALUES, indent=st.sampled_from([None, 2]))
def test_white_space_hides_no_value(value: Any, indent: int | None) -> None:
    text = json.dumps(value, indent=indent).encode()
    values = count(value)
    assert has_more_values(text, values - 1) is (len(text) > 2 * (values - 1))


@pytest.mark.parametrize(
    "text",
    [
        b'["' + b'\\",' * 8_000_000 + b'"]',
        b'["' + b"\\\\" * 12_000_000 + b',"]',
        b"[" + b'"",' * 8_000_000 + b"1]",
        b'["' + b"," * 24_000_000 + b'"]',
    ],
    ids=["escaped marks", "backslashes", "strings", "commas in a string"],
)
def test_a_large_text_is_counted_in_no_time(text: bytes) -> None:
    before = time.thread_time()
    has_more_values(text, 10_000_000)
    assert time.thread_time() - before < MOST_SECONDS
