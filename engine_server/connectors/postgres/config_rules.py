"""Rules for the settings of the Postgres destination, which pydantic cannot express by a type."""

import ssl
from collections.abc import Sequence
from typing import cast

from pydantic import SecretStr, ValidationInfo

from engine_server.connectors.addresses import parse_host
from engine_server.connectors.config import of_one_line
from engine_server.connectors.files import allowed_file
from engine_server.connectors.reach import OPEN, REACH, HostRefused, Reach
from pipesync_postgres.parameters import (
    FILES,
    SslMode,
    check_parameters,
    check_transport,
    effective_ssl_mode,
)
from pipesync_postgres.url import NOT_UNDERSTOOD, Host, PostgresUrl, parse_url

# Postgres truncates longer identifiers.
MAX_IDENTIFIER_BYTES = 63
_PARTS = ("host", "port", "database", "user", "password")


def fits_an_identifier(value: str) -> str:
    """Require a name that Postgres does not truncate."""
    if len(value.encode()) > MAX_IDENTIFIER_BYTES:
        raise ValueError(f"must be at most {MAX_IDENTIFIER_BYTES} bytes long")
    return value


def check_host(host: str | None, info: ValidationInfo) -> str | None:
    """Require a host within the engine's reach."""
    if host is not None:
        if not _is_host(host):
            raise ValueError(
                "is no host name or address, nor the directory of a Unix socket; a whole URL"
                " belongs in url"
            )
        _check_reach([Host(name=host)], info)
    return host


def check_password_file(path: str | None, info: ValidationInfo) -> str | None:
    """Require a file that pipelines may name, as the only password."""
    if path is not None:
        if info.data.get("password") is not None:
            raise ValueError("cannot be given together with password: give one or other")
        allowed_file(path, info)
    return path


def check_ca_pem(pem: str | None, info: ValidationInfo) -> str | None:
    """Require certificates, and a TLS mode that uses them."""
    if pem is not None:
        try:
            # The call that connecting makes, too: other calls accept an empty text.
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=pem)
        except (ssl.SSLError, ValueError, TypeError):
            raise ValueError("must be one or more certificates in PEM form") from None
        mode = info.data.get("ssl_mode")
        if mode is not None and not mode.startswith("verify-"):
            raise ValueError(f"is of no use with ssl_mode {mode}: choose verify-full")
    return pem


def check_url(url: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
    """Require a URL or a host, and of the URL no contradiction to the other settings."""
    given = [name for name in _PARTS if info.data.get(name) is not None]
    if url is None:
        if info.data.get("host") is None and "host" in info.data:
            raise ValueError("is required, unless host, database and user say where to connect")
        return None
    if given:
        raise ValueError(f"cannot be given together with {', '.join(given)}: give one or other")
    parts = parse_url(url.get_secret_value())
    if not all(_is_host(host.name) for host in parts.hosts):
        raise ValueError(
            f"{NOT_UNDERSTOOD}, and a host must be a name, an address or the directory of a"
            " Unix socket"
        )
    for part in (parts.user, parts.database, *parts.parameters.values()):
        of_one_line(part)
    if info.data.get("password_file") is not None and parts.password:
        raise ValueError("has a password already: give that or password_file")
    check_parameters(parts.parameters)
    _check_tls(parts, info)
    _check_reach(parts.hosts, info)
    return url


def _is_host(text: str) -> bool:
    if text.startswith("/"):
        return True
    try:
        parse_host(text)
    except ValueError:
        return False
    return True


def _check_reach(hosts: Sequence[Host], info: ValidationInfo) -> None:
    """Refuse hosts that are out of the engine's reach under any address."""
    reach: Reach = (info.context or {}).get(REACH, OPEN)
    if not hosts and not reach.is_open:
        raise ValueError("must name a host: this engine connects to no Unix socket by default")
    for host in [] if reach.is_open else hosts:
        try:
            if host.is_socket:
                reach.check_socket(host.name)
            else:
                reach.check(host.name)
        except HostRefused as refusal:
            raise ValueError(str(refusal)) from None


def _check_tls(url: PostgresUrl, info: ValidationInfo) -> None:
    """Refuse TLS parameters of a url that cannot be met or contradict the other fields."""
    said = url.parameters
    for name in FILES:
        if name in said and said[name] != "system":
            try:
                allowed_file(said[name], info)
            except ValueError as error:
                raise ValueError(f"{name} {error}") from None
    if "sslmode" in said and info.data.get("ssl_mode") is not None:
        raise ValueError("sslmode cannot be given together with ssl_mode: give one or other")
    mode = effective_ssl_mode(
        info.data.get("ssl_mode") or cast("SslMode | None", said.get("sslmode")),
        said,
        has_own_authority=info.data.get("ssl_ca_pem") is not None,
    )
    check_transport(url, mode)
