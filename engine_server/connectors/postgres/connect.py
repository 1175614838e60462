"""How a connection to the user's Postgres is made: where to, as whom, and under which name.

The driver is told all that it would look up in the environment of the engine's process otherwise:
the password of whoever runs the engine is not for a server that a pipeline names.
"""

import ssl
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

import asyncpg

from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.errors import ConnectionFailed
from pipesync_postgres.hosts import LastHost, connect_to_any
from pipesync_postgres.tls import tls_context
from pipesync_postgres.unnamed_statements import UnnamedStatements
from pipesync_postgres.url import Host

Tls: TypeAlias = ssl.SSLContext | Literal[False]

_APPLICATION_NAME = "pipesync"
# Seconds for each host, unless the url has a connect_timeout.
_TIMEOUT = 10.0
# The server lets us in with TLS only, or without only.
_NO_ENTRY = "28000"


async def connect(
    config: PostgresConfig, *_: Any, last_host: LastHost | None = None, **of_the_pool: Any
) -> asyncpg.Connection:
    """A new connection.

    Nothing is asked of a session that a pooler between us and Postgres could not keep: no prepared
    statement has a name, and no setting is made when we connect but the application's name and what
    the user asks for. https://www.pgbouncer.org/features.html

    Args:
        config: Where to, as whom, and over what TLS.
        last_host: As ``connect_to_any`` takes it.
        of_the_pool: What a pool asks of the driver for its connections.

    Raises:
        ConnectionFailed: The configuration leads nowhere.
        OSError, asyncpg.PostgresError: As the driver does; TimeoutError when nothing is answered.
            PasswordCommandFailed when the operator's command prints no password.
    """
    said = config.url_parameters
    options = {**of_the_pool, **_options(config)}
    attempts = _tls_attempts(config)

    async def connect_to(host: Host | None, attribute: str) -> asyncpg.Connection:
        where = {**options, **_address(host), "target_session_attrs": attribute}
        command = config.password_command(host)
        if command is None:
            return await _connect(where | {"password": _password(config)}, attempts)
        password = await command.password()
        try:
            return await _connect(where | {"password": password}, attempts)
        except asyncpg.InvalidAuthorizationSpecificationError:
            # It may have expired since it was printed.
            renewed = await command.password(refused=password)
            if renewed == password:
                raise
            return await _connect(where | {"password": renewed}, attempts)

    # Of several hosts the one that takes writes: after a fail-over it is another one.
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


async def _connect(options: dict[str, Any], attempts: list[Tls]) -> asyncpg.Connection:
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
        # One that is a ValueError, too, is about the server's certificate.
        raise
    except ValueError:
        # The driver's text may quote a piece of the password, so it is left out.
        raise ConnectionFailed("the Postgres configuration cannot be understood") from None
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
        "timeout": float(said.get("connect_timeout", 0)) or _TIMEOUT,
        "direct_tls": said.get("sslnegotiation") == "direct",
        "server_settings": settings,
        "connection_class": UnnamedStatements,
        # So the driver keeps no statement under a name. Were its cache turned off, it would have
        # each statement parsed a second time for its first use; ours are all in transactions.
        "max_cacheable_statement_size": 1,
    }


def _address(host: Host | None) -> dict[str, Any]:
    return {} if host is None else {"host": [host.name], "port": [host.port]}


def _password(config: PostgresConfig) -> str | Callable[[], str]:
    """Never None, for which the driver would take PGPASSWORD, or a line of ~/.pgpass."""
    if config.password_file is not None:
        return partial(_read_password, Path(config.password_file))
    return config.own_password


def _read_password(path: Path) -> str:
    # Only the end of the line is not part of it.
    password = path.read_bytes().decode(errors="replace").rstrip("\r\n")
    if not password:
        raise ConnectionFailed(f"the Postgres password file {path} is empty")
    return password


def _tls_attempts(config: PostgresConfig) -> list[Tls]:
    """How to connect: in this way or else in the next, False being without TLS.

    https://www.postgresql.org/docs/current/libpq-ssl.html#LIBPQ-SSL-PROTECTION

    Raises:
        ConnectionFailed: A certificate or a key cannot be read.
    """
    mode = config.effective_ssl_mode
    if mode == "disable":
        return [False]
    try:
        context = tls_context(mode, config.url_parameters, authority_pem=config.ssl_ca_pem)
    except OSError as error:
        raise ConnectionFailed(
            f"sslrootcert, sslcert or sslkey in the Postgres url cannot be read: {error}"
        ) from error
    match mode:
        case "allow":
            return [False, context]
        case "prefer":
            return [context, False]
        case _:
            return [context]
