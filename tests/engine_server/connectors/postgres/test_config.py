"""Accepted configurations, and errors of others."""

import tempfile
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.struct_pb2 import Struct
from pydantic import ValidationError
from pydantic_settings import CliApp

from engine_server.connectors.config import parse_config
from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.destination import PostgresDestination
from engine_server.connectors.registry import ConnectorRegistry
from engine_server.errors import InvalidRequest
from engine_server.settings import EngineSettings
from engine_server.sync.checks.resolution import ResolvedDestination, resolve_destination
from pipesync.v1.catalog_pb2 import Connector
from tests.pipesync_server.certificates import Authority

# Any readable certificate.
with tempfile.TemporaryDirectory() as directory:
    PEM = Authority(Path(directory)).certificate.read_text()


def _parse(config: dict[str, Any]) -> PostgresConfig:
    return parse_config(
        PostgresConfig, ParseDict(config, Struct()), "config", secrets_directory=Path("/run")
    )


def _violations(config: dict[str, Any]) -> dict[str, str]:
    with pytest.raises(InvalidRequest) as caught:
        _parse(config)
    return {violation.field: violation.description for violation in caught.value.field_violations}


def test_a_url_is_enough() -> None:
    config = _parse({"url": "postgresql://postgres@/db?host=/tmp/socket"})
    assert config.schema_name == "stripe"
    assert config.batch_size == 2000
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
        ({"host": "h", "ssl_ca_pem": ""}, "config.ssl_ca_pem", "in PEM form"),
        ({"host": "h", "ssl_ca_pem": "é"}, "config.ssl_ca_pem", "in PEM form"),
        (
            {"host": "h", "password": "p", "password_file": "/run/p"},
            "config.password_file",
            "cannot be given together with password",
        ),
        ({"host": "h", "password_file": "p"}, "config.password_file", "an absolute path"),
        (
            {"url": "postgresql://me:p@h/d", "password_file": "/run/p"},
            "config.url",
            "has a password already",
        ),
        ({"url": "postgresql://h/d?sslmode=on"}, "config.url", "sslmode must be one of disable"),
        (
            {"url": "postgresql://h/d?sslmode=require", "ssl_mode": "require"},
            "config.url",
            "sslmode cannot be given together with ssl_mode",
        ),
        ({"url": "postgresql://me:p/q@h/d"}, "config.url", "percent-encoded"),
        ({"url": "postgresql://me:p%00q@h/d"}, "config.url", "percent-encoded"),
        ({"url": "postgresql://me:h:unter2@h:unter2/d"}, "config.url", "percent-encoded"),
        ({"url": "postgresql://u@me:12,hunter2!/z@h/db"}, "config.url", "percent-encoded"),
        ({"url": "postgresql://u@me:12,hunter2/z@h/db"}, "config.url", "percent-encoded"),
        ({"url": "postgresql://u:12/hunter2@h/db"}, "config.url", "percent-encoded"),
        ({"url": "postgresql://h/d?host=h%0Ahunter2"}, "config.url", "a host must be a name"),
        ({"url": "postgresql://h/d%1B[2K"}, "config.url", "must hold no control characters"),
        *(
            ({"host": host}, "config.host", "a whole URL belongs in url")
            for host in (
                "postgresql://u:hunter2@h/db",
                "u:hunter2@h",
                "hunter2@h",
                "h/hunter2",
                "h hunter2",
                "h,hunter2",
            )
        ),
        *(
            ({"host": "h", field: f"a{character}b"}, f"config.{field}", "no control characters")
            for field in ("schema", "database", "user", "application_name")
            for character in ("\x1b", "\x9b", "\x7f", "\n", "\u202e", "\u2028", "\u200b")
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
    assert "hunter2" not in str(violations)


def test_the_spec_describes_every_field_and_marks_the_secret_ones() -> None:
    schema = MessageToDict(PostgresDestination().spec().config_schema)
    properties = schema["properties"]
    assert all(declared["description"] for declared in properties.values())
    secret = {name for name, declared in properties.items() if "writeOnly" in str(declared)}
    assert secret == {"url", "password", "password_file"}


def test_secrets_are_not_shown() -> None:
    config = _parse({"host": "h", "password": "hunter2"})
    assert "hunter2" not in repr(config)


# URLs that users copy from elsewhere, and their errors; empty for accepted ones.
PARAMETERS = {
    "connect_timeout=15": "",
    "connect_timeout=soon": "connect_timeout must be a whole number of seconds",
    "sslmode=require&channel_binding=prefer": "",
    "sslmode=require&channel_binding=require": "",
    "channel_binding=require": "",
    "sslmode=disable&channel_binding=require": "sslmode=disable is without: say",
    "sslmode=allow&channel_binding=require": "sslmode=allow is without: say",
    "host=/run/postgresql&channel_binding=require": "which a Unix socket is without",
    "sslmode=verify-full&channel_binding=require": "",
    "channel_binding=maybe": "channel_binding must be one of disable, prefer, require",
    "pgbouncer=true&connection_limit=1&prepareThreshold=0": "",
    "keepalives=1&keepalives_idle=30&keepalives_interval=10&keepalives_count=5": "",
    "options=endpoint%3Dep-cool-name": "",
    "fallback_application_name=x&client_encoding=UTF8&sslcompression=0": "",
    "target_session_attrs=read-write": "",
    "target_session_attrs=write": "target_session_attrs must be one of any, read-write",
    "gssencmode=disable": "",
    "gssencmode=require": "gssencmode must be one of disable, prefer",
    "sslmode=require&sslnegotiation=direct": "",
    "sslnegotiation=direct": "sslnegotiation=direct needs sslmode=require",
    "sslmode=require&ssl_min_protocol_version=TLSv1.3": "",
    "ssl_min_protocol_version=TLSv1": "must be one of TLSv1.2, TLSv1.3",
    "sslmode=no-verify": "sslmode must be one of disable",
    "ssl=true": "",
    "ssl=1": "ssl is not supported: say sslmode=require",
    "hostaddr=10.0.0.1": "hostaddr is not supported: give the address as host",
    "host=one,two&port=1,2,3": "names 3 ports for 2 hosts",
    "p&ss@word=1": "a parameter of it is not supported",
    "schema=public": "schema is not supported: give it in the field schema",
    "service=prod": "service is not supported: give host",
    "servicefile=/run/s": "servicefile is not supported: give host",
    "passfile=/run/s": "passfile is not supported: give password",
    "require_auth=none": "require_auth is not supported",
    "sslcrl=/run/crl": "sslcrl is not supported",
    "search_path=mine": "a setting of the session goes into options=-c name=value",
    "sslmode=verify-full&sslrootcert=system": "",
    "sslmode=verify-full&sslrootcert=/run/ca.pem": "",
    "sslrootcert=/etc/passwd": "sslrootcert must be a file in /run, the engine's secrets",
    "sslcert=/run/../etc/passwd": "sslcert must be a file in /run",
    "sslkey=secret.key": "sslkey must be an absolute path",
}


@pytest.mark.parametrize(("query", "said"), PARAMETERS.items(), ids=PARAMETERS.keys())
def test_each_parameter_of_a_url_is_honoured_or_harmless_or_refused_by_name(
    query: str, said: str
) -> None:
    config = {"url": f"postgresql://me:hunter2@h/d?{query}"}
    if not said:
        _parse(config)
        return
    violations = _violations(config)
    assert list(violations) == ["config.url"]
    assert said in violations["config.url"]
    assert "hunter2" not in violations["config.url"]


@pytest.mark.parametrize(
    ("query", "given", "mode"),
    [
        ("", {}, "verify-full"),
        ("&sslmode=prefer", {}, "verify-full"),
        ("&sslmode=require", {}, "verify-full"),
        ("&sslmode=require&sslrootcert=/run/ca.pem", {}, "verify-ca"),
        ("&sslmode=verify-ca&sslrootcert=/run/ca.pem", {}, "verify-ca"),
        # Everyone can get a certificate of a public authority.
        ("&sslmode=verify-ca", {}, "verify-full"),
        ("", {"ssl_mode": "require"}, "verify-full"),
        ("", {"ssl_ca_pem": PEM}, "verify-full"),
        ("", {"ssl_ca_pem": PEM, "ssl_mode": "verify-ca"}, "verify-ca"),
    ],
)
def test_channel_binding_is_met_by_a_certificate_that_is_verified(
    query: str, given: dict[str, Any], mode: str
) -> None:
    config = _parse({"url": f"postgresql://h/d?channel_binding=require{query}", **given})
    assert config.effective_ssl_mode == mode


@pytest.mark.parametrize("field", ["password_file", "sslrootcert", "sslcert", "sslkey"])
def test_files_are_named_only_where_the_engine_allows_it(field: str, tmp_path: Path) -> None:
    secrets = tmp_path / "secrets"
    (secrets / "of a team").mkdir(parents=True)
    outside = tmp_path / "outside"
    outside.write_text("not for pipelines")
    (secrets / "away").symlink_to(outside)
    (secrets / "circle").symlink_to(secrets / "circle")
    (secrets / "kept").write_text("for pipelines")
    (secrets / "of a team" / "linked").symlink_to(secrets / "kept")

    def said(path: Path, allowed: Path | None) -> str:
        config = (
            {"host": "h", field: str(path)}
            if field == "password_file"
            else {"url": f"postgresql://h/d?{field}={path}"}
        )
        named = "config.password_file" if field == "password_file" else "config.url"
        try:
            parse_config(
                PostgresConfig, ParseDict(config, Struct()), "config", secrets_directory=allowed
            )
        except InvalidRequest as error:
            [violation] = error.field_violations
            assert violation.field == named
            assert field == "password_file" or violation.description.startswith(f"{field} ")
            return violation.description
        return ""

    assert said(secrets / "kept", secrets) == ""
    assert said(secrets / "of a team" / "linked", secrets) == ""
    assert said(secrets / "not there yet", secrets) == ""
    for path in (outside, secrets / "away", secrets / ".." / "outside", secrets / "circle"):
        assert f"must be a file in {secrets}" in said(path, secrets)
    assert "with --secrets-directory" in said(secrets / "kept", None)


def test_the_engines_setting_reaches_the_check_of_a_pipeline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIPESYNC_SECRETS_DIRECTORY", str(tmp_path))
    settings = EngineSettings()
    registry = ConnectorRegistry.installed(secrets_directory=settings.secrets_directory)

    def resolve(file: Path) -> ResolvedDestination:
        config = ParseDict({"host": "h", "password_file": str(file)}, Struct())
        connector = Connector(type="postgres", config=config)
        return resolve_destination(registry, connector, "pipeline.destination")

    assert resolve(tmp_path / "password").type == "postgres"
    with pytest.raises(InvalidRequest) as caught:
        resolve(Path("/etc/passwd"))
    [violation] = caught.value.field_violations
    assert violation.field == "pipeline.destination.config.password_file"
    with pytest.raises(ValidationError, match="secrets_directory"):
        CliApp.run(EngineSettings, ["--secrets-directory", str(tmp_path / "nowhere")])
