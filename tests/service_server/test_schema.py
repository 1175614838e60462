from service_server.schema import secret_paths

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


def test_an_absent_secret_is_no_secret() -> None:
    assert secret_paths(SCHEMA, {"maybe": None}) == set()
