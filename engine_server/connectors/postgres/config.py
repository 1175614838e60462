"""What a user says about the Postgres to write to."""

import ssl
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationInfo, field_validator

from engine_server.connectors.config import ConnectorConfig

# Postgres cuts longer identifiers off.
MAX_IDENTIFIER_BYTES = 63
_PARTS = ("host", "port", "database", "user", "password")


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
        "_raw_data). Virtual when absent, stored where the server is older.",
    )
    delete_mode: Literal["soft", "hard"] = Field(
        "soft",
        description="What becomes of a row whose object was deleted at the source: kept with "
        "deleted = true (soft), or deleted (hard).",
    )
    ssl_ca_pem: str | None = Field(
        None,
        description="PEM certificates of the authority to trust. The server must then have a "
        "certificate of it for its host name. When absent, sslmode in the url decides.",
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
        if urlsplit(url.get_secret_value()).scheme not in {"postgresql", "postgres"}:
            raise ValueError("must begin with postgresql://")
        return url

    @field_validator("ssl_ca_pem")
    @classmethod
    def _is_a_certificate(cls, pem: str | None) -> str | None:
        if pem is not None:
            try:
                ssl.create_default_context(cadata=pem)
            except (ssl.SSLError, ValueError):
                raise ValueError("must be one or more certificates in PEM form") from None
        return pem
