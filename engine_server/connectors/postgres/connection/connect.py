"""Connections to the user's Postgres: address, role, TLS and application name.

Every option is passed to the driver. Otherwise it would read the environment of the engine's
process, and send the operator's password to a server that a pipeline names.
"""

import asyncio
import ssl
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

import asyncpg

from engine_server.connectors.addresses import parse_host
from engine_server.connectors.files import UnusableFile, read_file, require_regular
from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.connection.answer_limits import expect_small_answers
from engine_server.connectors.reach import HostRefused
from engine_server.errors import ConnectionFailed
from pipesync_postgres.guarded_protocol import guard_connections
from pipesync_postgres.hosts import LastHost, connect_to_any
from pipesync_postgres.parameters import FILES
from pipesync_postgres.tls import tls_context
from pipesync_postgres.unnamed_statements import UnnamedStatements
from pipesync_postgres.url import Host

Tls: TypeAlias = ssl.SSLContext | Literal[False]

# The servers are not trusted: pipelines choose them.
guard_connections()

_APPLICATION_NAME = "pipesync"
# Seconds for each host, unless the url has a connect_timeout.
_TIMEOUT = 10.0
# A silent server occupies a place among the service's concurrent steps for this long.
_MAX_TIMEOUT = 60.0
# The server accepts this client only with TLS, or only without.
_NO_ENTRY = "28000"


async def connect(
    config: PostgresConfig, *_: Any, last_host: LastHost | None = None, **of_the_pool: Any
) -> asyncpg.Connection:
    """Return a new connection.

    The session holds no state that a pooler could not keep: no prepared statement has a name, and
    the startup message sets only the application name and the options of the user.
    https://www.pgbouncer.org/features.html

    Args:
        config: Address, role and TLS.
        last_host: As ``connect_to_any`` takes it.
        of_the_pool: Driver options that a pool sets for its connections.

    Raises:
        ConnectionFailed: The configuration cannot be used.
        PasswordCommandFailed: The operator's command prints no password.
        asyncpg.PostgresError: As the driver raises it.
        OSError: As the driver raises it.
        TimeoutError: The server does not answer.
    """
    said = config.url_parameters
    options = {**of_the_pool, **_options(config)}
    open_attempts = _tls_attempts(config) if config.reach.is_open else []

    async def connect_to(host: Host | None, attribute: str) -> asyncpg.Connection:
        targets = await _targets(config, host)
        wanted = {**options, "target_session_attrs": attribute}
        attempts = open_attempts
        if not config.reach.is_open:
            attempts = _tls_attempts(config, server_name=_server_name(host))
        command = config.password_command(host)
        if command is None:
            return await _connect(wanted | {"password": _password(config)}, targets, attempts)
        password = await command.password()
        try:
            return await _connect(wanted | {"password": password}, targets, attempts)
        except asyncpg.InvalidAuthorizationSpecificationError:
            # The password may have expired since it was printed.
            renewed = await command.password(refused=password)
            if renewed == password:
                raise
            return await _connect(wanted | {"password": renewed}, targets, attempts)

    # Of several hosts, the one that accepts writes: after a fail-over it is another one.
    wanted = said.get("target_session_attrs") or ("read-write" if len(config.hosts) > 1 else "any")
    try:
        return await connect_to_any(config.hosts, wanted, connect_to, last=last_host)
    except ssl.SSLCertVerificationError as error:
        if said.get("channel_binding") != "require":
            raise
        raise ConnectionFailed(
            f"the certificate of Postgres is not trusted ({error.verify_message}), and "
            "channel_binding=require needs one that is: give its authority as ssl_ca_pem, or take "
            "channel_binding out"
        ) from error


async def _targets(config: PostgresConfig, host: Host | None) -> Sequence[dict[str, Any]]:
    """Return the driver's options for a host: its name, or each of its addresses once checked.

    Connections that cancel a statement go to the same address.

    Raises:
        ConnectionFailed: The engine may not connect to the host.
        OSError: The host has no address.
    """
    if host is None:
        return [{}]
    reach = config.reach
    if reach.is_open:
        return [{"host": [host.name], "port": [host.port]}]
    try:
        if host.is_socket:
            reach.check_socket(host.name)
            return [{"host": [host.name], "port": [host.port]}]
        async with asyncio.timeout(_timeout(config)):
            addresses = await reach.addresses(host.name, host.port)
    except HostRefused as refusal:
        raise ConnectionFailed(str(refusal)) from None
    return [{"host": [str(address)], "port": [host.port]} for address in addresses]


def _server_name(host: Host | None) -> str | None:
    """Return the name that a server's certificate must have, as the connection goes by address."""
    return None if host is None or host.is_socket else str(parse_host(host.name))


async def _connect(
    options: dict[str, Any], targets: Sequence[dict[str, Any]], attempts: list[Tls]
) -> asyncpg.Connection:
    """Connect to the first target that answers; all targets share the timeout of one."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + options["timeout"]
    *others, last = targets
    for target in others:
        try:
            left = max(deadline - loop.time(), 0)
            return await _connect_to_one(options | target | {"timeout": left}, attempts)
        except TimeoutError:
            raise
        except OSError:
            continue
    left = max(deadline - loop.time(), 0) if others else options["timeout"]
    return await _connect_to_one(options | last | {"timeout": left}, attempts)


async def _connect_to_one(options: dict[str, Any], attempts: list[Tls]) -> asyncpg.Connection:
    *others, last = attempts
    for tls in others:
        try:
            return await _try_to_connect(tls, options)
        except TimeoutError:
            raise
        except OSError:
            continue
        except asyncpg.InvalidAuthorizationSpecificationError as error:
            if error.sqlstate != _NO_ENTRY:
                raise
    return await _try_to_connect(last, options)


async def _try_to_connect(tls: Tls, options: dict[str, Any]) -> asyncpg.Connection:
    try:
        connection: asyncpg.Connection = await asyncpg.connect(**options, ssl=tls)
    except OSError:
        # An SSLCertVerificationError is an OSError and a ValueError.
        raise
    except ValueError:
        # The driver's message is left out: it may quote a part of the password.
        raise ConnectionFailed("the Postgres configuration cannot be understood") from None
    expect_small_answers(connection)
    return connection


def _options(config: PostgresConfig) -> dict[str, Any]:
    said = config.url_parameters
    settings = {
        "application_name": config.application_name
        or said.get("application_name")
        or said.get("fallback_application_name")
        or _APPLICATION_NAME
    }
    if "options" in said:
        settings["options"] = said["options"]
    return {
        "database": config.database_name,
        "user": config.role,
        "timeout": _timeout(config),
        "direct_tls": said.get("sslnegotiation") == "direct",
        "server_settings": settings,
        "connection_class": UnnamedStatements,
        # Keeps the driver from naming statements. With its cache turned off, it would have each
        # statement parsed twice.
        "max_cacheable_statement_size": 1,
    }


def _timeout(config: PostgresConfig) -> float:
    seconds = float(config.url_parameters.get("connect_timeout", 0)) or _TIMEOUT
    return min(seconds, _MAX_TIMEOUT)


def _password(config: PostgresConfig) -> str | Callable[[], str]:
    """Return the password; never None, for which the driver reads PGPASSWORD and ~/.pgpass."""
    if config.password_file is not None:
        return partial(_read_password, Path(config.password_file))
    return config.own_password


def _read_password(path: Path) -> str:
    """Return the password that the file holds now.

    No error names the path, which callers see masked.

    Raises:
        ConnectionFailed: The file is empty, or is no file to read a password from.
        OSError: The file cannot be read now.
    """
    # Only the line break at the end is not part of the password.
    try:
        password = read_file(path).decode(errors="replace").rstrip("\r\n")
    except UnusableFile as error:
        raise ConnectionFailed(f"the file that password_file names {error}") from None
    except OSError as error:
        said = f"the file that password_file names cannot be read: {error.strerror}"
        raise OSError(error.errno, said) from None
    if not password:
        raise ConnectionFailed("the file that password_file names is empty")
    return password


def _tls_attempts(config: PostgresConfig, *, server_name: str | None = None) -> list[Tls]:
    """Return the TLS contexts to connect with, in order; False for a connection without TLS.

    https://www.postgresql.org/docs/current/libpq-ssl.html#LIBPQ-SSL-PROTECTION

    Raises:
        ConnectionFailed: A certificate or a key cannot be read.
    """
    mode = config.effective_ssl_mode
    if mode == "disable":
        return [False]
    try:
        said = config.url_parameters
        for path in (said[name] for name in FILES if name in said and said[name] != "system"):
            require_regular(path)
        context = tls_context(mode, said, authority_pem=config.ssl_ca_pem, server_name=server_name)
    except OSError as error:
        raise ConnectionFailed(
            # The path is left out: it is part of a url that callers see masked.
            "sslrootcert, sslcert or sslkey in the Postgres url cannot be read:"
            f" {error.strerror or error}"
        ) from None
    match mode:
        case "allow":
            return [False, context]
        case "prefer":
            return [context, False]
        case _:
            return [context]
