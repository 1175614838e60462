"""What a user says about the Postgres to write to."""

import ssl
from pathlib import Path
from typing import Annotated, Literal, get_args
from urllib.parse import parse_qs, urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationInfo, field_validator

from engine_server.connectors.config import ConnectorConfig

# Postgres cuts longer identifiers off.
MAX_IDENTIFIER_BYTES = 63
_PARTS = ("host", "port", "database", "user", "password")

# https://www.postgresql.org/docs/current/libpq-ssl.html#LIBPQ-SSL-SSLMODE-STATEMENTS
SslMode = Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]


def _fits_an_identifier(value: str) -> str:
    if len(value.encode()) > MAX_IDENTIFIER_BYTES:
        raise ValueError(f"must be at most {MAX_IDENTIFIER_BYTES} bytes long")
    return value


class PostgresConfig(ConnectorConfig):
    """Where the tables live and how they are kept. Give ``url``, or ``host`` and its companions."""

    host: str | None = Field(
        None, min_length=1, description="Host name, address, or directory of a Unix socket."
    )
    port: int | None = Field(None, ge=1, le=65535, description="TCP port. 5432 when absent.")
    database: str | None = Field(
        None, min_length=1, description="Database name. The user's name when absent."
    )
    user: str | None = Field(
        None,
        min_length=1,
        description="Role to connect as. The operating system's user when absent.",
    )
    password: SecretStr | None = Field(None, description="The role's password.")
    password_file: str | None = Field(
        None,
        min_length=1,
        description="Absolute path of a file on the engine's machine that holds the password, in "
        "place of password. It is read for each new connection, so the password may be changed "
        "while the engine runs.",
    )
    # After its alternatives: its validator looks at them.
    url: SecretStr | None = Field(
        None,
        validate_default=True,
        description="postgresql://user:password@host:port/database?sslmode=..., in place of host, "
        "port, database, user and password. A Unix socket is named by ?host=/its/directory.",
    )
    # "schema" itself is taken by pydantic.
    schema_name: Annotated[str, AfterValidator(_fits_an_identifier)] = Field(
        "stripe", alias="schema", min_length=1, description="Schema that holds the tables."
    )
    batch_size: int = Field(
        1000, ge=1, le=100_000, description="Rows that are written together, at most 8 MiB of them."
    )
    columns: Literal["stored", "virtual", "none"] | None = Field(
        None,
        description="How a record's fields become typed columns: kept on disk (stored), worked out "
        "when read (virtual, Postgres 18 and newer, cannot be indexed), or not at all (none: only "
        "_raw_data). Virtual when absent, stored where the server is older. A column that is there "
        "stays as it was made.",
    )
    delete_mode: Literal["soft", "hard"] = Field(
        "soft",
        description="What becomes of a row whose object was deleted at the source: kept with "
        "deleted = true (soft), or deleted (hard).",
    )
    ssl_mode: SslMode | None = Field(
        None,
        description="TLS, in libpq's words: disable, allow, prefer, require (encrypted, but with "
        "whoever answers), verify-ca (the certificate is of an authority we trust), verify-full "
        "(and for this host name). When absent: sslmode in the url, or verify-full with "
        "ssl_ca_pem, or prefer.",
    )
    ssl_ca_pem: str | None = Field(
        None,
        description="PEM certificates of the authorities to trust. The server's certificate must "
        "then be of one of them and for its host name; the name is not looked at with verify-ca. "
        "When absent, verify-ca and verify-full go by sslrootcert in the url, or else trust the "
        "authorities that the engine's machine trusts.",
    )
    application_name: str | None = Field(
        None,
        min_length=1,
        description="What pg_stat_activity calls our sessions. When absent: application_name in "
        "the url, or pipesync.",
    )
    statement_timeout: float = Field(
        60.0,
        ge=0.001,
        le=86_400,
        description="Seconds that writing a batch of one stream may take, waiting for locks "
        "included, before it is broken off and tried again. Setup and teardown may take longer.",
    )

    @field_validator("url")
    @classmethod
    def _exactly_one_way(cls, url: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        parts = [name for name in _PARTS if info.data.get(name) is not None]
        if url is None:
            if info.data.get("host") is None and "host" in info.data:
                raise ValueError("is required, unless host, database and user say where to connect")
            return None
        if parts:
            raise ValueError(f"cannot be given together with {', '.join(parts)}: give one or other")
        text = url.get_secret_value()
        if urlsplit(text).scheme not in {"postgresql", "postgres"}:
            raise ValueError("must begin with postgresql://")
        if info.data.get("password_file") is not None and _has_password(text):
            raise ValueError("has a password already: give that or password_file")
        mode = url_parameter(text, "sslmode")
        if mode is not None and mode not in get_args(SslMode):
            raise ValueError(f"sslmode must be one of {', '.join(get_args(SslMode))}")
        return url

    @field_validator("password_file")
    @classmethod
    def _is_the_only_password(cls, path: str | None, info: ValidationInfo) -> str | None:
        if path is not None:
            if info.data.get("password") is not None:
                raise ValueError("cannot be given together with password: give one or other")
            if not Path(path).is_absolute():
                raise ValueError("must be an absolute path")
        return path

    @field_validator("ssl_mode")
    @classmethod
    def _is_the_only_mode(cls, mode: SslMode | None, info: ValidationInfo) -> SslMode | None:
        url = info.data.get("url")
        if mode and url and url_parameter(url.get_secret_value(), "sslmode"):
            raise ValueError("cannot be given together with sslmode in the url: give one or other")
        return mode

    @field_validator("ssl_ca_pem")
    @classmethod
    def _is_a_certificate(cls, pem: str | None, info: ValidationInfo) -> str | None:
        if pem is not None:
            try:
                ssl.create_default_context(cadata=pem)
            except (ssl.SSLError, ValueError):
                raise ValueError("must be one or more certificates in PEM form") from None
            mode = info.data.get("ssl_mode")
            if mode is not None and not mode.startswith("verify-"):
                raise ValueError(f"is of no use with ssl_mode {mode}: choose verify-full")
        return pem


def url_parameter(url: str, name: str) -> str | None:
    """What a connection URL says after its question mark; of several the last."""
    return parse_qs(urlsplit(url).query).get(name, [None])[-1]


def _has_password(url: str) -> bool:
    credentials = urlsplit(url).netloc.rpartition("@")[0]
    return ":" in credentials or url_parameter(url, "password") is not None
