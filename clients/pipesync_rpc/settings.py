"""What programs are told when they start: by flags, else by PIPESYNC_* variables."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BeforeValidator, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, CliApp, NoDecode, SettingsConfigDict, SettingsError

from pipesync_rpc.credentials import ServerTls

EXIT_USAGE = 2


def _split(value: Any) -> Any:
    return (
        [part.strip() for part in value.split(",") if part.strip()]
        if isinstance(value, str)
        else value
    )


# A list in one variable or flag, its parts separated by commas.
CommaSeparated = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]


def _split_lines(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return [line.strip() for line in value.splitlines() if line.strip()]


# Texts that may hold anything but the end of a line: one a line in a variable, one for each flag.
LineSeparated = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split_lines)]


class ProgramSettings(BaseSettings):
    """The settings that all programs have in common."""

    model_config = SettingsConfigDict(
        env_prefix="PIPESYNC_",
        cli_kebab_case=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
        frozen=True,
        hide_input_in_errors=True,
    )

    log_format: Literal["json", "console"] | None = Field(
        default=None, description="How to log; by default console in a terminal, else json."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least level that is logged."
    )


class ServerSettings(ProgramSettings):
    """The settings that the two servers have in common."""

    listen: str = Field(
        description="Where to serve gRPC: host:port or unix:/path; port 0 takes a free one."
    )
    tls_certificate: Path | None = Field(
        default=None, description="PEM file of the server's certificate chain; turns TLS on."
    )
    tls_private_key: Path | None = Field(
        default=None, description="PEM file of the certificate's private key."
    )
    tls_client_ca: Path | None = Field(
        default=None,
        description="PEM file of who signs clients' certificates; clients must then have one.",
    )
    token_hashes: CommaSeparated = Field(
        default=(),
        description="SHA-256 hashes, in hexadecimal, of the bearer tokens that callers may show;"
        " separated by commas. None lets every caller in.",
    )
    drain_seconds: float = Field(
        default=30.0,
        gt=0,
        description="How long running calls may take to end after SIGTERM, in seconds.",
    )
    max_concurrent_calls: int = Field(
        default=1000, gt=0, description="Calls at once; the next one is turned away."
    )

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_private_key is None):
            raise ValueError("tls_certificate and tls_private_key go together")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise ValueError("tls_client_ca needs tls_certificate and tls_private_key")
        return self

    @property
    def tls(self) -> ServerTls | None:
        """The server's side of TLS; None for plain text."""
        if self.tls_certificate is None or self.tls_private_key is None:
            return None
        return ServerTls(
            certificate=self.tls_certificate,
            private_key=self.tls_private_key,
            client_ca=self.tls_client_ca,
        )


SettingsT = TypeVar("SettingsT", bound=ProgramSettings)


def read_settings(model: type[SettingsT], arguments: Sequence[str] | None = None) -> SettingsT:
    """The settings of this process, from its command line and its environment.

    Args:
        model: What there is to set.
        arguments: Of the command line, where these are not all of them.

    Raises:
        SystemExit: A setting is wrong: one plain sentence on stderr, exit code 2. Or --help was
            asked for.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    for name, field in model.model_fields.items():
        if any(
            isinstance(one, BeforeValidator) and one.func is _split_lines for one in field.metadata
        ):
            given = _joined(given, f"--{name.replace('_', '-')}")
    try:
        return CliApp.run(model, given)
    except (ValidationError, SettingsError) as error:
        print(f"{Path(sys.argv[0]).name}: {_sentence(error)}", file=sys.stderr)  # noqa: T201 - logging is not set up before the settings are known
        raise SystemExit(EXIT_USAGE) from None


def _joined(arguments: Sequence[str], flag: str) -> list[str]:
    """Join the values of a repeated flag by line ends: pydantic would by commas."""
    others: list[str] = []
    values: list[str] = []
    remaining = iter(arguments)
    for argument in remaining:
        if argument == flag:
            values.append(next(remaining, ""))
        elif argument.startswith(f"{flag}="):
            values.append(argument.removeprefix(f"{flag}="))
        else:
            others.append(argument)
    return [*others, f"{flag}={chr(10).join(values)}"] if values else others


def _sentence(error: ValidationError | SettingsError) -> str:
    if isinstance(error, SettingsError):
        return str(error)
    return "; ".join(
        _problem(details["loc"], details["msg"])
        for details in error.errors(include_url=False, include_input=False)
    )


def _problem(location: tuple[int | str, ...], message: str) -> str:
    message = message.removeprefix("Value error, ")
    if not location:
        return message
    return f"--{str(location[0]).replace('_', '-')}: {message[:1].lower()}{message[1:]}"
