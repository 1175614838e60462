from service_server.schema import secret_paths, violations

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


def test_a_good_config_has_no_violations() -> None:
    config = {"key": "a", "maybe": None, "login": {"user": "me"}, "size": 5.0, "mode": "hard"}
    assert violations(SCHEMA, config, "config") == []


def test_every_bad_field_is_named() -> None:
    config = {
        "login": {"pasword": "c"},
        "tokens": ["d", 5],
        "mode": "firm",
        "size": 1.5,
        "maybe": 7,
    }
    found = {one.field: one.description for one in violations(SCHEMA, config, "config")}
    assert found == {
        "config.key": "is required",
        "config.login.user": "is required",
        "config.login.pasword": "is not a field of this connector; did you mean password?",
        "config.tokens[1]": "must be of type string",
        "config.mode": "must be one of: soft, hard",
        "config.size": "must be of type integer",
        "config.maybe": "must be of type string",
    }
