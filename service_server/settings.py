"""What the service is told when it starts."""

from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Self

import platformdirs
from pydantic import Field, SecretStr, ValidationInfo, field_validator, model_validator
from pydantic_settings import CliSuppress, SettingsConfigDict

from pipesync_postgres.password_command import PasswordCommand
from pipesync_postgres.url import is_postgres
from pipesync_rpc.credentials import ClientTls
from pipesync_rpc.settings import ProgramSettings, ServerSettings
from service_server.secrets import parse_keys
from service_server.store.connecting import check_url


class StoreSettings(ProgramSettings):
    """Where the service's tables are, and what they are encrypted with."""

    # Before the URL, whose validator looks at it.
    database_password_command: SecretStr | None = Field(
        default=None,
        description="What prints the password for the database URL, which must then hold none: run"
        " without a shell for new connections, at most once a minute.",
    )
    database_url: SecretStr | None = Field(
        default=None,
        validate_default=True,
        description="The service's own Postgres: postgresql://user:password@host/database. Without"
        " it an embedded one is started in the data directory.",
    )
    database_session_url: SecretStr | None = Field(
        default=None,
        description="The same database past the pooler, or through one in session mode, when"
        " database_url leads through a pooler in transaction mode: services are then notified of"
        " changes at once, instead of looking for them every second, and migrate over it.",
    )
    data_dir: Path = Field(
        default=Path(platformdirs.user_data_dir("pipesync", appauthor=False)),
        description="Where the embedded Postgres and the key file are kept.",
    )
    encryption_keys: CliSuppress[SecretStr | None] = Field(default=None)

    @field_validator("database_password_command")
    @classmethod
    def _is_a_command(cls, command: SecretStr | None) -> SecretStr | None:
        if command is not None:
            PasswordCommand.parse(command.get_secret_value(), "")
        return command

    @field_validator("database_url", "database_session_url")
    @classmethod
    def _is_a_postgres_url(cls, url: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        has_command = info.data.get("database_password_command") is not None
        if url is None:
            if has_command and info.field_name == "database_url":
                raise ValueError("is required with a password command")
            return url
        if not is_postgres(url.get_secret_value()):
            raise ValueError("must be a URL such as postgresql://user:password@host/database")
        check_url(url.get_secret_value(), has_password_command=has_command)
        return url

    @model_validator(mode="after")
    def _session_url_leads_past_another(self) -> Self:
        if self.database_session_url is not None and self.database_url is None:
            raise ValueError("database_session_url is given without database_url")
        return self

    @field_validator("encryption_keys")
    @classmethod
    def _are_keys(cls, keys: SecretStr | None) -> SecretStr | None:
        if keys is not None:
            parse_keys(keys.get_secret_value())
        return keys

    @cached_property
    def password_command(self) -> PasswordCommand | None:
        """The command that prints the database's password; the same object each time."""
        if self.database_password_command is None:
            return None
        return PasswordCommand.parse(
            self.database_password_command.get_secret_value(), "the service's database"
        )


class RotateKeysSettings(StoreSettings):
    """Encrypts every stored secret with the newest key, and ends; services may run meanwhile.

    Every flag can be given as an environment variable instead: --log-level as PIPESYNC_LOG_LEVEL.
    By variable only: PIPESYNC_ENCRYPTION_KEYS, the new key first, then those that secrets are
    encrypted with now. Start the services anew with these keys before, so that none of them still
    encrypts with an older one. What is cut off goes on when it is repeated.
    """

    model_config = SettingsConfigDict(cli_prog_name="service-server rotate-keys")


class ServiceSettings(StoreSettings, ServerSettings):
    """Keeps pipelines and their state, and has the engine run them.

    service-server rotate-keys encrypts what is stored with the newest key instead, and ends.

    Every flag can be given as an environment variable instead: --log-level as PIPESYNC_LOG_LEVEL.
    By variable only, because other users of the machine can read a command line:
    PIPESYNC_ENCRYPTION_KEYS (base64 of 32 bytes each, between commas, newest first; without it a
    key file is made in the data directory) and PIPESYNC_ENGINE_TOKEN (the bearer token for the
    engine). A database URL with a password is better given as PIPESYNC_DATABASE_URL, too.
    """

    model_config = SettingsConfigDict(cli_prog_name="service-server")

    listen: str = Field(
        default="127.0.0.1:50052",
        description="Where to serve gRPC: host:port or unix:/path; port 0 takes a free one.",
    )
    http: str = Field(
        default="127.0.0.1:8080",
        description="Where to serve HTTP, which is webhooks, health and metrics: host:port or"
        " unix:/path; port 0 takes a free one.",
    )
    engine: str = Field(
        default="127.0.0.1:50051",
        description="Where the engine is: host:port, dns:///host:port or unix:/path. Several that"
        " take turns: ipv4:host:port,host:port.",
    )
    engine_tls: bool = Field(default=False, description="Call the engine over TLS.")
    engine_ca: Path | None = Field(
        default=None,
        description="PEM file of who signs the engine's certificate; turns TLS to the engine on.",
    )
    engine_certificate: Path | None = Field(
        default=None, description="PEM file of the service's own certificate, for mutual TLS."
    )
    engine_private_key: Path | None = Field(
        default=None, description="PEM file of that certificate's private key."
    )
    engine_token: CliSuppress[SecretStr | None] = Field(default=None)
    engine_proxy: SecretStr | None = Field(
        default=None,
        description="http://host:port of a proxy that leads to the engine. Without it the engine is"
        " called directly: http_proxy and its like are not looked at.",
    )
    lease_seconds: float = Field(
        default=15.0,
        ge=1,
        description="How long a sync keeps its pipeline after the service that ran it died. Below"
        " 12, one that somebody asked for may go on for some seconds longer, if the service did not"
        " die but stands still.",
    )

    webhook_attempts: int = Field(
        default=5,
        ge=1,
        description="How often a webhook event that cannot be applied is tried before it is set"
        " aside.",
    )
    webhook_days: float = Field(
        default=7.0,
        gt=0,
        description="How many days webhook events are kept once they are applied. Stripe may"
        " deliver one again for three days, which is noticed as long as it is kept.",
    )
    max_running_pipelines: int = Field(
        default=50,
        ge=0,
        description="How many pipelines that run by themselves this process syncs at once; 0 leaves"
        " them to others.",
    )
    step_seconds: float = Field(
        default=10.0,
        ge=0.1,
        description="The longest that one step of such a pipeline takes: pausing, changing and"
        " deleting it waits for that. A page of the source and its flush should fit in; a step that"
        " brings nothing is followed by longer ones, of up to eight times as long.",
    )
    poll_seconds: float = Field(
        default=30.0,
        gt=0,
        description="How often such a pipeline asks for events, if its source follows them.",
    )
    read_seconds: float = Field(
        default=3600.0,
        gt=0,
        description="How often such a pipeline reads what was made since the last time: not"
        " everything has events.",
    )
    reconcile_days: float = Field(
        default=7.0,
        gt=0,
        description="How often such a pipeline reads everything again, and compares.",
    )
    retry_seconds: float = Field(
        default=2.0,
        gt=0,
        description="How long such a pipeline waits after a failure: doubled after each more.",
    )
    longest_retry_seconds: float = Field(
        default=300.0,
        gt=0,
        description="The most that comes to; twelve times that where the configuration is wrong.",
    )
    loop_patience_seconds: float = Field(
        default=120.0,
        ge=1,
        description="How long a background loop may take for one round before /healthz and the"
        " health check say that it stands still.",
    )
    keep_runs_days: float = Field(
        default=30.0,
        gt=0,
        description="How long the record of a run is kept; that of a pipeline's latest run always.",
    )

    @model_validator(mode="after")
    def _engine_certificate_is_whole(self) -> Self:
        if (self.engine_certificate is None) != (self.engine_private_key is None):
            raise ValueError("engine_certificate and engine_private_key go together")
        return self

    @property
    def client_tls(self) -> ClientTls | None:
        """The service's side of TLS to the engine; None for plain text."""
        if not (self.engine_tls or self.engine_ca or self.engine_certificate):
            return None
        return ClientTls(
            ca=self.engine_ca,
            certificate=self.engine_certificate,
            private_key=self.engine_private_key,
        )

    @property
    def lease_duration(self) -> timedelta:
        """``lease_seconds``."""
        return timedelta(seconds=self.lease_seconds)

    @property
    def webhook_retention(self) -> timedelta:
        """``webhook_days``."""
        return timedelta(days=self.webhook_days)

    @property
    def claim_duration(self) -> timedelta:
        """After this, a step whose service died is taken by another one."""
        return timedelta(seconds=self.step_seconds + self.lease_seconds)

    @property
    def patience(self) -> timedelta:
        """How long whoever needs a pipeline to itself waits for its step to end."""
        return timedelta(seconds=2 * self.step_seconds + 10)
