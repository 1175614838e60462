"""A connection to the service's own Postgres, as its URL says.

What the URL leaves open comes from the environment of the process, as with libpq: PGPASSWORD,
~/.pgpass, ~/.postgresql/root.crt.
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
from pipesync_postgres.url import Host, PostgresUrl, parse_url
from service_server.errors import StoreUnavailable

_TIMEOUT = 10.0
# Besides those of TLS, these are the operator's to give.
_OPERATORS = frozenset({"gsslib", "krbsrvname", "passfile", "service", "sslcrl"})
_DRIVERS = _OPERATORS | {
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
    """Refuse a URL that cannot be honoured.

    Args:
        url: ``postgresql://...``
        has_password_command: Whether a command prints its password.

    Raises:
        ValueError: It names the parameter and the remedy, and never a value.
    """
    parts = parse_url(url)
    check_parameters(parts.parameters, further=_OPERATORS)
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


async def connect(
    url: str,
    *,
    password_command: PasswordCommand | None = None,
    last_host: LastHost | None = None,
    **options: Any,
) -> Connection:
    """Connect to the first of the URL's hosts that can be used.

    Args:
        url: As ``check_url`` takes it.
        password_command: What prints the password, in place of one in the URL.
        last_host: As ``connect_to_any`` takes it.
        options: As the driver takes them. All hosts together have the ``timeout``.

    Raises:
        StoreUnavailable: The server's certificate is not trusted, or a file of TLS is missing.
        asyncpg.PostgresError, OSError: As the driver does.
    """
    parts = parse_url(url)
    options |= _options(parts, options)

    async def connect_to(host: Host | None, attribute: str) -> Connection:
        where = {**options, "target_session_attrs": attribute}
        if host is not None:
            where |= {"host": [host.name], "port": [host.port]}
        if password_command is None:
            return await _connect(where, parts.password or None)
        password = await password_command.password()
        try:
            return await _connect(where, password)
        except asyncpg.InvalidAuthorizationSpecificationError:
            # It may have expired since it was printed.
            renewed = await password_command.password(refused=password)
            if renewed == password:
                raise
            return await _connect(where, renewed)

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
    """Return the attribute that a server must have: of several, only one takes writes at a time."""
    default = "read-write" if len(url.hosts) > 1 else "any"
    return url.parameters.get("target_session_attrs") or default


async def _connect(where: Mapping[str, Any], password: str | None) -> Connection:
    connection: Connection = await asyncpg.connect(**where, password=password)
    return connection


def _options(url: PostgresUrl, given: Mapping[str, Any]) -> dict[str, Any]:
    said = url.parameters
    settings = dict(given.get("server_settings") or {})
    settings |= {name: said[name] for name in ("application_name", "options") if name in said}
    options: dict[str, Any] = {
        "user": url.user or None,
        "database": url.database or None,
        "timeout": min(
            float(said.get("connect_timeout", 0)) or math.inf, _host_timeout(url, given)
        ),
        "server_settings": settings,
    }
    mode = _ssl_mode(url)
    # The driver reads neither, and "require" would be content with any certificate.
    if said.get("channel_binding") == "require" or said.get("sslrootcert") == "system":
        try:
            options["ssl"] = tls_context(mode, {**_authority_file(), **said})
        except OSError as error:
            raise StoreUnavailable(
                f"a TLS file of the service's database URL cannot be read: {error}"
            ) from error
        options["direct_tls"] = said.get("sslnegotiation") == "direct"
        return options
    drivers = {name: said[name] for name in _DRIVERS & said.keys()}
    if drivers:
        options["dsn"] = f"postgresql://?{urlencode(drivers, quote_via=quote)}"
    return options


def _host_timeout(url: PostgresUrl, given: Mapping[str, Any]) -> float:
    """Return the seconds for one host: one that does not answer leaves time for the others."""
    timeout: float = given.get("timeout") or _TIMEOUT
    return timeout / max(1, len(url.hosts))


def _ssl_mode(url: PostgresUrl) -> SslMode:
    said = url.parameters
    return effective_ssl_mode(cast("SslMode | None", said.get("sslmode")), said)


def _authority_file() -> Mapping[str, str]:
    """The authority that libpq trusts where the URL names none; nothing for the machine's own."""
    named = os.environ.get("PGSSLROOTCERT")
    default = Path("~/.postgresql/root.crt").expanduser()
    if named:
        return {"sslrootcert": named}
    return {"sslrootcert": str(default)} if default.exists() else {}
