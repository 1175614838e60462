"""Connections to the service's own Postgres database by a URL.

As with libpq, the environment provides the parts that the URL omits: PGPASSWORD, ~/.pgpass,
~/.postgresql/root.crt.
"""

import math
import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote, urlencode

import asyncpg

from pipesync_postgres.hosts import Connection, LastHost, connect_to_any
from pipesync_postgres.parameters import (
    SslMode,
    check_parameters,
    check_transport,
    effective_ssl_mode,
)
from pipesync_postgres.password_command import PasswordCommand
from pipesync_postgres.tls import tls_context
from pipesync_postgres.url import NOT_UNDERSTOOD, Host, PostgresUrl, parse_url
from service_server.errors import StoreUnavailable

_TIMEOUT = 10.0
# Parameters that only operators may set, besides those of TLS.
_OPERATOR_PARAMETERS = frozenset({"gsslib", "krbsrvname", "passfile", "service", "sslcrl"})
_DRIVER_PARAMETERS = _OPERATOR_PARAMETERS | {
    "sslcert",
    "sslkey",
    "sslmode",
    "sslnegotiation",
    "sslpassword",
    "sslrootcert",
    "ssl_max_protocol_version",
    "ssl_min_protocol_version",
}


def check_url(url: str, *, has_password_command: bool = False) -> None:
    """Validate a URL.

    Args:
        url: ``postgresql://...``
        has_password_command: Whether a command prints the password.

    Raises:
        ValueError: The URL cannot be honoured. The message names the parameter and the remedy, but
            no value.
    """
    parts = parse_url(url)
    if not all(host.is_socket or _can_be_looked_up(host.name) for host in parts.hosts):
        raise ValueError(f"{NOT_UNDERSTOOD}, and a host must be a name or an address")
    check_parameters(parts.parameters, further=_OPERATOR_PARAMETERS)
    mode = _ssl_mode(parts)
    check_transport(parts, mode)
    if not has_password_command:
        return
    if parts.password:
        raise ValueError("has a password already: give that or the password command")
    if not parts.user or not parts.hosts:
        raise ValueError("must name a host and a user for the password command")
    if mode != "verify-full" and not all(host.is_local for host in parts.hosts):
        raise ValueError(
            "needs sslmode=verify-full, because a password command's password is sent only to a "
            "server that is known by its certificate"
        )


def _can_be_looked_up(name: str) -> bool:
    # For such a name, the resolver raises an error that does not name the host.
    try:
        name.encode("idna")
    except UnicodeError:
        return False
    return True


async def connect(
    url: str,
    *,
    password_command: PasswordCommand | None = None,
    last_host: LastHost | None = None,
    **options: Any,
) -> Connection:
    """Connect to the first of the URL's hosts that can be used.

    Args:
        url: As for ``check_url``.
        password_command: Prints the password, which the URL then lacks.
        last_host: As for ``connect_to_any``.
        options: As for ``asyncpg.connect``. ``timeout`` covers all hosts together.

    Raises:
        StoreUnavailable: The server's certificate is not trusted, or a file of TLS is missing.
        asyncpg.PostgresError: As by ``asyncpg.connect``.
        OSError: As by ``asyncpg.connect``.
    """
    parts = parse_url(url)
    options |= _options(parts, options)

    async def connect_to(host: Host | None, attribute: str) -> Connection:
        arguments = {**options, "target_session_attrs": attribute}
        if host is not None:
            arguments |= {"host": [host.name], "port": [host.port]}
        if password_command is None:
            return await _connect(arguments, parts.password or None)
        password = await password_command.password()
        try:
            return await _connect(arguments, password)
        except asyncpg.InvalidAuthorizationSpecificationError:
            # The password may have expired since the command printed it.
            renewed = await password_command.password(refused=password)
            if renewed == password:
                raise
            return await _connect(arguments, renewed)

    try:
        return await connect_to_any(parts.hosts, wanted_server(parts), connect_to, last=last_host)
    except ssl.SSLCertVerificationError as error:
        raise StoreUnavailable(
            f"the certificate of the service's database is not trusted: {error.verify_message}; "
            "sslrootcert names the file of another authority"
        ) from error
    except asyncpg.ClientConfigurationError as error:
        raise StoreUnavailable(f"the service's database URL cannot be used: {error}") from error


def wanted_server(url: PostgresUrl) -> str:
    """Return the ``target_session_attrs`` of the URL.

    With several hosts it defaults to a server that accepts writes, since only one of them does.
    """
    default = "read-write" if len(url.hosts) > 1 else "any"
    return url.parameters.get("target_session_attrs") or default


async def _connect(arguments: Mapping[str, Any], password: str | None) -> Connection:
    connection: Connection = await asyncpg.connect(**arguments, password=password)
    return connection


def _options(url: PostgresUrl, given: Mapping[str, Any]) -> dict[str, Any]:
    parameters = url.parameters
    settings = dict(given.get("server_settings") or {})
    settings |= {
        name: parameters[name] for name in ("application_name", "options") if name in parameters
    }
    options: dict[str, Any] = {
        "user": url.user or None,
        "database": url.database or None,
        "timeout": min(
            float(parameters.get("connect_timeout", 0)) or math.inf, _host_timeout(url, given)
        ),
        "server_settings": settings,
    }
    mode = _ssl_mode(url)
    # The driver ignores both parameters, and its "require" accepts any certificate.
    if parameters.get("channel_binding") == "require" or parameters.get("sslrootcert") == "system":
        try:
            options["ssl"] = tls_context(mode, {**_authority_file(), **parameters})
        except OSError as error:
            raise StoreUnavailable(
                f"a TLS file of the service's database URL cannot be read: {error}"
            ) from error
        options["direct_tls"] = parameters.get("sslnegotiation") == "direct"
        return options
    of_driver = {name: parameters[name] for name in _DRIVER_PARAMETERS & parameters.keys()}
    if of_driver:
        options["dsn"] = f"postgresql://?{urlencode(of_driver, quote_via=quote)}"
    return options


def _host_timeout(url: PostgresUrl, given: Mapping[str, Any]) -> float:
    """Return the seconds for one host, so that a silent host leaves time for the others."""
    timeout: float = given.get("timeout") or _TIMEOUT
    return timeout / max(1, len(url.hosts))


def _ssl_mode(url: PostgresUrl) -> SslMode:
    parameters = url.parameters
    return effective_ssl_mode(cast("SslMode | None", parameters.get("sslmode")), parameters)


def _authority_file() -> Mapping[str, str]:
    """Return the root certificate that libpq trusts if the URL names none.

    Returns:
        Nothing if the system's certificates apply.
    """
    named = os.environ.get("PGSSLROOTCERT")
    default = Path("~/.postgresql/root.crt").expanduser()
    if named:
        return {"sslrootcert": named}
    return {"sslrootcert": str(default)} if default.exists() else {}
