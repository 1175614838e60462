"""What configuration is taken, and what a bad one is told."""

import tempfile
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.struct_pb2 import Struct

from engine_server.connectors.config import parse_config
from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.destination import PostgresDestination
from engine_server.errors import InvalidRequest
from tests.pipesync_rpc.certificates import Authority

# Any that can be read.
with tempfile.TemporaryDirectory() as directory:
    PEM = Authority(Path(directory)).certificate.read_text()


def _parse(config: dict[str, Any]) -> PostgresConfig:
    return parse_config(PostgresConfig, ParseDict(config, Struct()), "config")


def _violations(config: dict[str, Any]) -> dict[str, str]:
    with pytest.raises(InvalidRequest) as caught:
        _parse(config)
    return {violation.field: violation.description for violation in caught.value.field_violations}


def test_a_url_is_enough() -> None:
    config = _parse({"url": "postgresql://postgres@/db?host=/tmp/socket"})
    assert config.schema_name == "stripe"
    assert config.batch_size == 1000
    assert config.delete_mode == "soft"
    assert config.columns is None


def test_a_host_is_enough() -> None:
    assert _parse({"host": "localhost", "port": 5433, "batch_size": 50}).port == 5433


@pytest.mark.parametrize(
    ("config", "field", "said"),
    [
        ({}, "config.url", "is required, unless host"),
        ({"user": "me"}, "config.url", "is required, unless host"),
        (
            {"url": "postgresql://h/d", "host": "h", "user": "me"},
            "config.url",
            "cannot be given together with host, user",
        ),
        ({"url": "mysql://h/d"}, "config.url", "must begin with postgresql://"),
        ({"host": "h", "schema": "é" * 32}, "config.schema", "at most 63 bytes"),
        ({"host": "h", "schema": ""}, "config.schema", "at least 1 character"),
        ({"host": "h", "batch_size": 0}, "config.batch_size", "greater than or equal to 1"),
        ({"host": "h", "port": 70000}, "config.port", "less than or equal to 65535"),
        ({"host": "h", "columns": "real"}, "config.columns", "'stored', 'virtual' or 'none'"),
        ({"host": "h", "delete_mode": "no"}, "config.delete_mode", "'soft' or 'hard'"),
        ({"host": "h", "ssl_ca_pem": "x"}, "config.ssl_ca_pem", "in PEM form"),
        (
            {"host": "h", "password": "p", "password_file": "/p"},
            "config.password_file",
            "cannot be given together with password",
        ),
        ({"host": "h", "password_file": "p"}, "config.password_file", "an absolute path"),
        (
            {"url": "postgresql://me:p@h/d", "password_file": "/p"},
            "config.url",
            "has a password already",
        ),
        ({"url": "postgresql://h/d?sslmode=on"}, "config.url", "sslmode must be one of disable"),
        (
            {"url": "postgresql://h/d?sslmode=require", "ssl_mode": "require"},
            "config.ssl_mode",
            "cannot be given together with sslmode",
        ),
        ({"host": "h", "ssl_mode": "on"}, "config.ssl_mode", "'verify-full'"),
        (
            {"host": "h", "ssl_mode": "require", "ssl_ca_pem": PEM},
            "config.ssl_ca_pem",
            "is of no use with ssl_mode require",
        ),
        ({"host": "h", "statement_timeout": 0}, "config.statement_timeout", "greater than"),
        ({"host": "h", "hots": "h"}, "config.hots", "did you mean host?"),
    ],
)
def test_a_bad_field_is_named_with_the_remedy(
    config: dict[str, Any], field: str, said: str
) -> None:
    violations = _violations(config)
    assert list(violations) == [field]
    assert said in violations[field]


def test_the_spec_describes_every_field_and_marks_the_secret_ones() -> None:
    schema = MessageToDict(PostgresDestination().spec().config_schema)
    properties = schema["properties"]
    assert all(declared["description"] for declared in properties.values())
    secret = {name for name, declared in properties.items() if "writeOnly" in str(declared)}
    assert secret == {"url", "password"}


def test_secrets_are_not_shown() -> None:
    config = _parse({"host": "h", "password": "hunter2"})
    assert "hunter2" not in repr(config)
