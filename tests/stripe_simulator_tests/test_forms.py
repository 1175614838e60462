"""Decoding of form-encoded parameters."""

import pytest

from tests.stripe_simulator.errors import Refusal
from tests.stripe_simulator.forms import decode, typed

PROPERTIES = {
    name: {"type": [kind, "null"]}
    for name, kind in {
        "active": "boolean",
        "balance": "integer",
        "percent_off": "number",
        "name": "string",
        "metadata": "object",
        "recurring": "object",
    }.items()
}


def test_brackets_nest() -> None:
    pairs = [
        ("name", "Ada"),
        ("metadata[crm]", "1"),
        ("metadata[0]", "numbers name metadata, too"),
        ("items[0][price]", "price_1"),
        ("items[1][price]", "price_2"),
        ("items[0][metadata][a]", "b"),
        ("enabled_events[]", "charge.failed"),
        ("enabled_events[]", "charge.succeeded"),
    ]
    assert decode(pairs) == {
        "name": "Ada",
        "metadata": {"crm": "1", "0": "numbers name metadata, too"},
        "items": [{"price": "price_1", "metadata": {"a": "b"}}, {"price": "price_2"}],
        "enabled_events": ["charge.failed", "charge.succeeded"],
    }


def test_one_name_is_a_value_or_a_hash() -> None:
    with pytest.raises(Refusal, match="Invalid hash"):
        decode([("metadata", "x"), ("metadata[a]", "b")])


def test_text_becomes_what_the_object_has() -> None:
    fields = {
        "active": "false",
        "balance": "-12",
        "percent_off": "12.5",
        "name": "94103",
        "metadata": {"number": "1", "gone": ""},
        "recurring": {"interval_count": "3"},
    }
    like = {"metadata": {"number": "0"}, "recurring": {"interval_count": 1}}
    assert typed(fields, PROPERTIES, like) == {
        "active": False,
        "balance": -12,
        "percent_off": 12.5,
        "name": "94103",
        "metadata": {"number": "1", "gone": None},
        "recurring": {"interval_count": 3},
    }


def test_what_the_object_has_no_field_for_is_refused() -> None:
    with pytest.raises(Refusal, match="unknown parameter: nmae"):
        typed({"nmae": "Ada"}, PROPERTIES, {})


def test_text_that_is_no_number_is_refused() -> None:
    with pytest.raises(Refusal, match="Invalid integer: many"):
        typed({"balance": "many"}, PROPERTIES, {})
