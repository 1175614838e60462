"""Settings of the service's database and of the encryption keys."""

import os
from functools import cached_property
from pathlib import Path
from typing import Self

import platformdirs
from pydantic import Field, SecretStr, ValidationInfo, field_validator, model_validator
from pydantic_settings import CliSuppress

from pipesync_postgres.password_command import PasswordCommand
from pipesync_postgres.url import is_postgres
from pipesync_server.settings import ProgramSettings
from service_server.security.secrets import parse_keys
from service_server.store.connecting import check_url


def default_data_dir() -> Path:
    """Return the user's own directory; under root, one that the embedded Postgres can enter."""
    of_user = Path(platformdirs.user_data_dir("pipesync", appauthor=False))
    if os.geteuid() != 0 or "XDG_DATA_HOME" in os.environ or of_user.exists():
        return of_user
    return Path("/var/lib/pipesync")


class StoreSettings(ProgramSettings):
    """Database and encryption keys of the service."""

    # Before the URL, whose validator reads it.
    database_password_command: SecretStr | None = Field(
        default=None,
        description="Command that prints the password for a database URL without a password. It"
        " runs without a shell, for new connections, at most once a minute.",
    )
    database_url: SecretStr | None = Field(
        default=None,
        validate_default=True,
        description="URL of the service's own Postgres: postgresql://user:password@host/database."
        " Without it, an embedded Postgres is started in the data directory.",
    )
    database_session_url: SecretStr | None = Field(
        default=None,
        description="URL of the same database without a pooler, or through one in session mode, for"
        " a database_url that leads through a pooler in transaction mode. Services use it for"
        " migrations and for notifications of changes, instead of a query per second.",
    )
    data_dir: Path = Field(
        default=default_data_dir(),
        description="Directory of the embedded Postgres and of the key file. Under root, the user"
        " pgserver must be able to enter it.",
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
    def _session_url_is_given_with_the_other(self) -> Self:
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
