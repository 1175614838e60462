from typing import Any

import pytest

from pipesync_server.config_schema import changed_properties, secret_bindings, secret_paths

SCHEMA = {
    "type": "object",
    "properties": {
        "key": {"type": "string", "writeOnly": True},
        "maybe": {"anyOf": [{"$ref": "#/$defs/Secret"}, {"type": "null"}]},
        "login": {"$ref": "#/$defs/Login"},
        "tokens": {"type": "array", "items": {"$ref": "#/$defs/Secret"}},
        "headers": {"type": "object", "additionalProperties": {"writeOnly": True}},
        "mode": {"enum": ["soft", "hard"]},
        "size": {"type": "integer"},
    },
    "required": ["key"],
    "additionalProperties": False,
    "$defs": {
        "Secret": {"type": "string", "writeOnly": True},
        "Login": {
            "type": "object",
            "properties": {"password": {"$ref": "#/$defs/Secret"}, "user": {"type": "string"}},
            "required": ["user"],
            "additionalProperties": False,
        },
    },
}


def test_secrets_are_found_wherever_the_schema_has_them() -> None:
    config = {
        "key": "a",
        "maybe": "b",
        "login": {"user": "me", "password": "c"},
        "tokens": ["d", "e"],
        "headers": {"x": "f"},
        "mode": "soft",
    }
    assert secret_paths(SCHEMA, config) == {
        ("key",),
        ("maybe",),
        ("login", "password"),
        ("tokens", 0),
        ("tokens", 1),
        ("headers", "x"),
    }


def test_an_absent_secret_has_no_path() -> None:
    assert secret_paths(SCHEMA, {"maybe": None}) == set()


BOUND = {
    "type": "object",
    "properties": {
        "host": {"type": "string", "default": "localhost"},
        "port": {"$ref": "#/$defs/Port"},
        "verify": {"type": "boolean"},
        "key": {"writeOnly": True, "sentTo": ["host", "port"]},
        "maybe": {"anyOf": [{"$ref": "#/$defs/Secret"}, {"type": "null"}], "sentTo": ["host"]},
        "tokens": {"items": {"$ref": "#/$defs/Secret"}, "sentTo": ["host"]},
        "unsent": {"writeOnly": True, "sentTo": []},
        "unbound": {"writeOnly": True},
        "mistyped": {"writeOnly": True, "sentTo": "host"},
        "misspelt": {"writeOnly": True, "sentTo": ["host", "prot"]},
        "either": {
            "anyOf": [
                {"writeOnly": True, "sentTo": ["host"]},
                {"writeOnly": True, "sentTo": ["port"]},
            ]
        },
        "one_unbound": {"anyOf": [{"writeOnly": True, "sentTo": ["host"]}, {"writeOnly": True}]},
        "closer": {
            "sentTo": ["port"],
            "properties": {"password": {"writeOnly": True, "sentTo": ["host"]}},
        },
    },
    "$defs": {
        "Secret": {"type": "string", "writeOnly": True},
        "Port": {"type": "integer", "default": 5432.0},
    },
}


def test_a_secret_is_bound_to_the_properties_that_it_names_or_to_all() -> None:
    config: dict[str, Any] = dict.fromkeys(BOUND["properties"], "x")
    config |= {"tokens": ["x"], "closer": {"password": "x"}}
    assert secret_bindings(BOUND, config) == {
        ("key",): {"host", "port"},
        ("maybe",): {"host"},
        ("tokens", 0): {"host"},
        ("unsent",): frozenset(),
        ("unbound",): None,
        ("mistyped",): None,
        ("misspelt",): None,
        ("either",): {"host", "port"},
        ("one_unbound",): None,
        ("closer", "password"): {"host"},
    }


@pytest.mark.parametrize(
    ("before", "after", "changed"),
    [
        ({}, {"host": "localhost", "port": 5432.0}, set()),
        ({"host": None}, {}, set()),
        ({"host": "a"}, {"host": "b"}, {"host"}),
        ({"host": "a"}, {}, {"host"}),
        ({}, {"port": 5433.0}, {"port"}),
        ({"verify": True}, {"verify": 1.0}, {"verify"}),
        ({"tokens": ["a", "b"]}, {"tokens": ["b", "a"]}, {"tokens"}),
        ({"closer": {"a": 1, "b": 2}}, {"closer": {"b": 2, "a": 1}}, set()),
        ({}, {"undeclared": "x"}, {"undeclared"}),
    ],
)
def test_defaults_are_filled_in_before_properties_are_compared(
    before: dict[str, Any], after: dict[str, Any], changed: set[str]
) -> None:
    assert changed_properties(BOUND, before, after) == changed
