"""Settings of programs, from flags, or else from PIPESYNC_* variables."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

from pydantic import (
    BeforeValidator,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, CliApp, NoDecode, SettingsConfigDict, SettingsError

from pipesync_rpc.credentials import ServerTls
from pipesync_server.certificates import parse_subject
from pipesync_server.client_address import TrustedProxies
from pipesync_server.validation import fault

EXIT_USAGE = 2
# The values of variables that pydantic reads as true or false.
_TRUE = frozenset({"true", "1", "yes", "on", "t", "y"})
_FALSE = frozenset({"false", "0", "no", "off", "f", "n"})
_HASH = re.compile(r"[0-9A-Fa-f]{64}", re.ASCII)


def _split(value: Any) -> Any:
    return (
        [part.strip() for part in value.split(",") if part.strip()]
        if isinstance(value, str)
        else value
    )


# A list in one variable or flag, separated by commas.
CommaSeparated = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]


def require_given(settings: BaseSettings, name: str, item: str) -> None:
    """Refuse a list that is given but empty, where an omitted list allows more than any list.

    Args:
        settings: The settings.
        name: Name of the list.
        item: Name of an item, for the message.

    Raises:
        ValueError: The list is given, and empty.
    """
    if name in settings.model_fields_set and not getattr(settings, name):
        raise ValueError(f"{name} must hold at least one {item}, or be left out")


def _is_path(annotation: Any) -> bool:
    """Return whether a setting is a path, or an optional one."""
    kinds = [annotation, *get_args(annotation)]
    kinds += [kind for one in get_args(annotation) for kind in get_args(one)]
    return any(isinstance(kind, type) and issubclass(kind, Path) for kind in kinds)


# Separates the values of a repeated flag: pydantic would split at a comma, and stop at a line
# break.
_BETWEEN_FLAGS = "\x1e"


def _split_lines(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    lines = value.replace(_BETWEEN_FLAGS, "\n").split("\n")
    return [line.strip() for line in lines if line.strip()]


# Texts without line breaks: one a line in a variable, or one for each flag.
LineSeparated = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split_lines)]


class ProgramSettings(BaseSettings):
    """Settings that all programs have in common."""

    model_config = SettingsConfigDict(
        env_prefix="PIPESYNC_",
        cli_kebab_case=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
        cli_implicit_flags=True,
        frozen=True,
        hide_input_in_errors=True,
    )

    log_format: Literal["json", "console"] | None = Field(
        default=None, description="Log format; by default console in a terminal, else json."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Lowest level that is logged."
    )

    @field_validator("*", mode="before")
    @classmethod
    def _is_no_empty_path(cls, value: Any, info: ValidationInfo) -> Any:
        # An empty variable would otherwise be taken for the working directory.
        field = cls.model_fields.get(info.field_name or "")
        if value == "" and field is not None and _is_path(field.annotation):
            raise ValueError("must be a path, or be left out")
        return value


class ServerSettings(ProgramSettings):
    """Settings that the two servers have in common."""

    listen: str = Field(
        description="Address of gRPC: host:port or unix:/path; port 0 chooses a free port."
    )
    tls_certificate: Path | None = Field(
        default=None, description="PEM file of the server's certificate chain; turns TLS on."
    )
    tls_private_key: Path | None = Field(
        default=None, description="PEM file of the certificate's private key."
    )
    tls_client_ca: Path | None = Field(
        default=None,
        description="PEM file of the authority of clients' certificates, which clients must then"
        " present. Without a token, a certificate admits only clients whose name the server knows.",
    )
    client_certificates: CommaSeparated = Field(
        default=(),
        description="Names of clients' certificates that allow everything, separated by commas:"
        " URI:... or DNS:... for an alternative name, CN:... for the common name.",
    )
    token_hashes: CommaSeparated = Field(
        default=(),
        description="SHA-256 hashes, in hexadecimal, of bearer tokens that allow everything;"
        " separated by commas. Without a token and a client CA, every caller is admitted.",
    )
    trusted_proxies: CommaSeparated = Field(
        default=(),
        description="Addresses and networks, separated by commas, of the proxies whose"
        " X-Forwarded-For is believed; 'unix' is a proxy that connects over a Unix socket.",
    )
    drain_seconds: float = Field(
        default=30.0,
        gt=0,
        description="Seconds that calls in flight have to end after SIGTERM.",
    )
    max_concurrent_calls: int = Field(
        default=2000,
        gt=0,
        description="Concurrent calls, without those of gRPC's own services; further calls are"
        " refused. Each kind of call has a budget of its own among them.",
    )
    max_syncs: int | None = Field(
        default=None,
        gt=0,
        description="Of these, concurrent calls that reach sources and destinations, such as syncs,"
        " checks and setups. By default a quarter in the service, and four fifths in the engine.",
    )
    max_health_calls: int = Field(
        default=1000,
        gt=0,
        description="Concurrent health watches and reflection calls, without health checks.",
    )
    caller_share: float = Field(
        default=0.75,
        gt=0,
        le=1,
        description="Largest share of each budget that one caller may have, of the capacity that"
        " others leave. A caller is the name of a token or certificate, else an address.",
    )
    max_request_mib: int = Field(
        default=512,
        ge=128,
        description="Memory for the large requests of all open calls, in MiB.",
    )
    request_seconds: float = Field(
        default=60.0,
        gt=0,
        description="Seconds that a caller has to send the request of a call.",
    )

    @field_validator("token_hashes")
    @classmethod
    def _are_hashes(cls, hashes: tuple[str, ...]) -> tuple[str, ...]:
        for place, one in enumerate(hashes, start=1):
            if not _HASH.fullmatch(one):
                raise ValueError(
                    f"number {place} is not the SHA-256 hash of a token, which is 64 hexadecimal"
                    " digits: printf %s TOKEN | sha256sum"
                )
        return tuple(one.lower() for one in hashes)

    @field_validator("client_certificates")
    @classmethod
    def _are_subjects(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(parse_subject, names))

    @field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, proxies: tuple[str, ...]) -> tuple[str, ...]:
        TrustedProxies(proxies)
        return proxies

    @model_validator(mode="after")
    def _given_hashes_are_some(self) -> Self:
        # An empty list that is given explicitly must not admit every caller.
        require_given(self, "token_hashes", "hash")
        require_given(self, "client_certificates", "name")
        return self

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_private_key is None):
            raise ValueError("tls_certificate and tls_private_key go together")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise ValueError("tls_client_ca needs tls_certificate and tls_private_key")
        if self.client_certificates and self.tls_client_ca is None:
            raise ValueError("client_certificates needs tls_client_ca, which signs them")
        return self

    @property
    def tls(self) -> ServerTls | None:
        """TLS settings of the server; None for plain text."""
        if self.tls_certificate is None or self.tls_private_key is None:
            return None
        return ServerTls(
            certificate=self.tls_certificate,
            private_key=self.tls_private_key,
            client_ca=self.tls_client_ca,
        )


SettingsT = TypeVar("SettingsT", bound=ProgramSettings)


def read_settings(model: type[SettingsT], arguments: Sequence[str] | None = None) -> SettingsT:
    """Return the settings of this process, from its command line and its environment.

    Args:
        model: The class of the settings.
        arguments: The command line, if it is not that of the process.

    Raises:
        SystemExit: A setting is invalid (one sentence on stderr, exit code 2), or --help was given.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    for name, field in model.model_fields.items():
        flag = name.replace("_", "-")
        if any(
            isinstance(one, BeforeValidator) and one.func is _split_lines for one in field.metadata
        ):
            given = _joined(given, f"--{flag}")
        if field.annotation is bool:
            given = _without_value(given, flag)
    try:
        return CliApp.run(model, given)
    except (ValidationError, SettingsError) as error:
        print(f"{Path(sys.argv[0]).name}: {_sentence(error)}", file=sys.stderr)  # noqa: T201 - logging is not set up before the settings are known
        raise SystemExit(EXIT_USAGE) from None


def _joined(arguments: Sequence[str], flag: str) -> list[str]:
    """Join the values of a repeated flag into one flag."""
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
    return [*others, f"{flag}={_BETWEEN_FLAGS.join(values)}"] if values else others


def _without_value(arguments: Sequence[str], name: str) -> list[str]:
    """Replace ``--name true`` with ``--name``, and ``--name false`` with ``--no-name``.

    argparse accepts no value of such a flag, which earlier versions required.
    """
    plain: list[str] = []
    remaining = list(arguments)
    while remaining:
        argument = remaining.pop(0)
        flag, separator, value = argument.partition("=")
        if flag == f"--{name}":
            if not separator and remaining and remaining[0].lower() in _TRUE | _FALSE:
                value = remaining.pop(0)
            if value.lower() in _TRUE | _FALSE:
                argument = flag if value.lower() in _TRUE else f"--no-{name}"
        plain.append(argument)
    return plain


def _sentence(error: ValidationError | SettingsError) -> str:
    if isinstance(error, SettingsError):
        return str(error)
    return "; ".join(
        _problem(details["loc"], fault(details["type"], details["msg"]))
        for details in error.errors(include_url=False, include_input=False)
    )


def _problem(location: tuple[int | str, ...], message: str) -> str:
    if not location:
        return message
    return f"--{str(location[0]).replace('_', '-')}: {message}"
