"""Configuration of the Postgres destination."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, Self, cast

from pydantic import (
    AfterValidator,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from engine_server.connectors.config import (
    PASSWORD_COMMANDS,
    ConnectorConfig,
    names_target,
    of_one_line,
    sent_to,
)
from engine_server.connectors.postgres.config_rules import (
    check_ca_pem,
    check_host,
    check_password_file,
    check_url,
    fits_an_identifier,
)
from engine_server.connectors.reach import OPEN, REACH, Reach
from pipesync_postgres.parameters import (
    SslMode,
    effective_ssl_mode,
)
from pipesync_postgres.password_command import PasswordCommand, PasswordCommands
from pipesync_postgres.url import (
    DEFAULT_PORT,
    MOST_URL,
    Host,
    PostgresUrl,
    parse_url,
)

# Characters. The certificate bundle of all regions of a cloud has 165,000.
MOST_PEM = 256 * 1024
_TLS_FIELDS = ("ssl_mode", "ssl_ca_pem")
# A pooler may choose the server by database and role, and a server its authentication method:
# https://www.postgresql.org/docs/current/auth-pg-hba-conf.html
_PASSWORD_SENT_TO = ("host", "port", "database", "user", "url", *_TLS_FIELDS)


class PostgresConfig(ConnectorConfig):
    """The connection and the layout of the tables. Give ``url``, or ``host`` and its companions."""

    host: str | None = Field(
        None,
        min_length=1,
        json_schema_extra=names_target("host"),
        description="Host name, address, or directory of a Unix socket.",
    )
    port: int | None = Field(
        None,
        ge=1,
        le=65535,
        json_schema_extra={**names_target("port", default="5432"), "default": DEFAULT_PORT},
        description="TCP port. 5432 when absent.",
    )
    database: str | None = Field(
        None,
        min_length=1,
        json_schema_extra=names_target("path"),
        description="Database name. The user's name when absent.",
    )
    user: str | None = Field(
        None,
        min_length=1,
        json_schema_extra=names_target("user"),
        description="Role to connect as. The operating system's user when absent.",
    )
    password: SecretStr | None = Field(
        None,
        # The token of a cloud may have several kilobytes.
        max_length=MOST_URL,
        json_schema_extra=sent_to(*_PASSWORD_SENT_TO),
        description="The role's password.",
    )
    password_file: str | None = Field(
        None,
        min_length=1,
        repr=False,
        # The content of the file is sent as a password is.
        json_schema_extra={"writeOnly": True, **sent_to(*_PASSWORD_SENT_TO)},
        description="Absolute path of a file on the engine's machine that holds the password, in "
        "place of password; it must lie in the engine's secrets directory. It is read for each new "
        "connection, so the password may be changed while the engine runs.",
    )
    # pydantic reserves the name "schema".
    schema_name: Annotated[str, AfterValidator(fits_an_identifier)] = Field(
        "stripe",
        alias="schema",
        min_length=1,
        json_schema_extra=names_target("schema"),
        description="Schema that holds the tables.",
    )
    batch_size: int = Field(
        2000,
        ge=1,
        le=100_000,
        description="How many rows of one stream are written together at most, and half as many "
        "again of all streams; no more than 8 MiB of them. As soon as Postgres has nothing else to "
        "do, 500 rows are enough.",
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
        max_length=MOST_PEM,
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
        "included, before it is broken off and tried again. Setup and teardown may take longer, "
        "but wait no longer for a lock.",
    )
    _password_commands: dict[Host, PasswordCommand] = PrivateAttr(default_factory=dict)
    _reach: Reach = PrivateAttr(default=OPEN)
    # Declared behind all fields that its validator reads.
    url: SecretStr | None = Field(
        None,
        max_length=MOST_URL,
        validate_default=True,
        json_schema_extra={**names_target("url"), **sent_to(*_TLS_FIELDS)},
        description="postgresql://user:password@host:port/database?sslmode=..., in place of host, "
        "port, database, user and password. A Unix socket is named by ?host=/its/directory. Of "
        "libpq's parameters, application_name, connect_timeout (10 s when absent, at most 60 s), "
        "options, target_session_attrs and those of TLS are honoured, whose files must lie in the "
        "engine's secrets directory; those that change nothing here (keepalives, pgbouncer, ...) "
        "are ignored, and others refused. Several hosts are tried in turn, each for as long as "
        "connect_timeout says. With channel_binding=require the server must prove itself by its "
        "certificate, as with verify-full.",
    )

    _are_of_one_line = field_validator(
        "host", "database", "user", "schema_name", "application_name"
    )(of_one_line)
    _check_host = field_validator("host")(check_host)
    _check_password_file = field_validator("password_file")(check_password_file)
    _check_ca_pem = field_validator("ssl_ca_pem")(check_ca_pem)
    _check_url = field_validator("url")(check_url)

    @model_validator(mode="after")
    def _keep_reach(self, info: ValidationInfo) -> Self:
        self._reach = (info.context or {}).get(REACH, OPEN)
        return self

    @model_validator(mode="after")
    def _find_password_commands(self, info: ValidationInfo) -> Self:
        commands: PasswordCommands | None = (info.context or {}).get(PASSWORD_COMMANDS)
        if commands is None or self.password_file is not None or self.own_password:
            return self
        for host in self.hosts:
            command = commands.find(host, self.role or "")
            if command is not None:
                self._refuse_unsafe(host)
                self._password_commands[host] = command
        return self

    def _refuse_unsafe(self, host: Host) -> None:
        """Refuse to send a password of the operator where another server could read it.

        The operator chooses the authority, too: with an authority of their own, the author of a
        pipeline could sign a certificate for any host.
        """
        if host.is_local:
            return
        if self.effective_ssl_mode != "verify-full" or self.ssl_ca_pem is not None:
            raise ValueError(
                f"the engine has a password command for {host.name}, whose password it sends only "
                "to a server with a certificate for that name, of an authority that the engine's "
                "machine trusts or that sslrootcert names in the engine's secrets directory: say "
                "sslmode=verify-full, without ssl_ca_pem"
            )

    @property
    def hard_deletes(self) -> bool:
        """Whether the rows of deleted objects are deleted."""
        return self.delete_mode == "hard"

    @property
    def url_parameters(self) -> Mapping[str, str]:
        """The query parameters of the url, by name; empty without a url."""
        return self._url.parameters if self._url is not None else {}

    @property
    def hosts(self) -> Sequence[Host]:
        """The servers in the order of connection attempts; empty for the driver's default."""
        if self._url is not None:
            return self._url.hosts
        return [Host(name=self.host, port=self.port or DEFAULT_PORT)] if self.host else []

    @property
    def reach(self) -> Reach:
        """The addresses that the engine may connect to."""
        return self._reach

    @property
    def role(self) -> str | None:
        """The role to connect as; None for the operating system's user."""
        return self._url.user or None if self._url is not None else self.user

    @property
    def database_name(self) -> str | None:
        """The database; None for the one named like the role."""
        return self._url.database or None if self._url is not None else self.database

    @property
    def own_password(self) -> str:
        """The password that the configuration itself holds; empty without one."""
        if self._url is not None:
            return self._url.password
        return self.password.get_secret_value() if self.password is not None else ""

    @property
    def effective_ssl_mode(self) -> SslMode:
        """The TLS mode that results from all settings."""
        return effective_ssl_mode(
            self.ssl_mode or cast("SslMode | None", self.url_parameters.get("sslmode")),
            self.url_parameters,
            has_own_authority=self.ssl_ca_pem is not None,
        )

    def password_command(self, host: Host | None) -> PasswordCommand | None:
        """Return the operator's command for the password at this host; None where there is none."""
        return self._password_commands.get(host) if host is not None else None

    @property
    def _url(self) -> PostgresUrl | None:
        return parse_url(self.url.get_secret_value()) if self.url is not None else None
