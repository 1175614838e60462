"""Strategies for any JSON that Postgres can store, as texts, with numbers beyond any float."""

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st

# Text in Postgres holds neither NUL characters nor lone surrogates.
words = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
_numbers = st.from_regex(
    r"-?(0|[1-9][0-9]{0,40})(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,3})?", fullmatch=True
)
_scalars = st.one_of(
    st.sampled_from(["null", "true", "false", "9223372036854775807", "9223372036854775808"]),
    _numbers.filter(str.isascii),
    words.map(json.dumps),
    words.map(lambda text: json.dumps(text, ensure_ascii=False)),
)


def _array(items: Sequence[str]) -> str:
    return f"[{', '.join(items)}]"


def as_object(fields: Mapping[str, str]) -> str:
    """Return a JSON object with these fields, whose values are JSON texts."""
    return f"{{{', '.join(f'{json.dumps(name)}: {value}' for name, value in fields.items())}}}"


json_texts = st.recursive(
    _scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map(_array),
        st.dictionaries(words, inner, max_size=4).map(as_object),
    ),
    max_leaves=12,
)


def exactly(text: str) -> Any:
    """Return the value of a JSON text, with each number as a Decimal."""
    return json.loads(text, parse_int=Decimal, parse_float=Decimal)
