"""How a connection to the user's Postgres is made: where to, as whom, and under which name.

The driver is told all that it would look up in the environment of the engine's process otherwise:
the password of whoever runs the engine is not for a server that a pipeline names.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg

from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.tls import Tls, tls_attempts
from engine_server.connectors.postgres.url import (
    NOT_UNDERSTOOD,
    address,
    has_several_hosts,
    password_in,
)
from engine_server.errors import ConnectionFailed

_APPLICATION_NAME = "pipesync"
# Seconds, unless the url has a connect_timeout.
_TIMEOUT = 10.0
# The server lets us in with TLS only, or without only.
_NO_ENTRY = "28000"


async def connect(config: PostgresConfig, *_: Any, **of_the_pool: Any) -> asyncpg.Connection:
    """A new connection.

    Nothing is asked of a session that a pooler between us and Postgres could not keep: no prepared
    statement has a name, and no setting is made when we connect but the application's name and what
    the user asks for. https://www.pgbouncer.org/features.html

    Args:
        config: Where to, as whom, and over what TLS.
        of_the_pool: What a pool asks of the driver for its connections.

    Raises:
        ConnectionFailed: The configuration leads nowhere.
        OSError, asyncpg.PostgresError: As the driver does; TimeoutError when nothing is answered.
    """
    timeout = float(config.url_parameters.get("connect_timeout", 0)) or _TIMEOUT
    return await _connect(config, timeout=timeout, **of_the_pool)


async def _connect(config: PostgresConfig, **options: Any) -> asyncpg.Connection:
    options.update(_options(config))
    *attempts, last = tls_attempts(config)
    for tls in attempts:
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
        raise ConnectionFailed(f"the Postgres url {NOT_UNDERSTOOD}") from None
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
        **_address(config),
        "password": _password(config),
        "direct_tls": said.get("sslnegotiation") == "direct",
        "target_session_attrs": said.get("target_session_attrs") or _wanted_server(config),
        "server_settings": settings,
        # So no statement is kept under a name. Were the cache itself turned off, the driver would
        # have every statement parsed twice; it need not, all of ours being in transactions.
        "max_cacheable_statement_size": 1,
    }


def _wanted_server(config: PostgresConfig) -> str:
    """Of several hosts the one that takes writes: after a fail-over it is another one."""
    is_choice = config.url is not None and has_several_hosts(config.url.get_secret_value())
    return "read-write" if is_choice else "any"


def _address(config: PostgresConfig) -> dict[str, Any]:
    if config.url is not None:
        return {"dsn": address(config.url.get_secret_value())}
    return {
        "host": config.host,
        "port": config.port or 5432,
        "database": config.database,
        "user": config.user,
    }


def _password(config: PostgresConfig) -> str | Callable[[], str]:
    """Never None, for which the driver would take PGPASSWORD, or a line of ~/.pgpass."""
    if config.password_file is not None:
        return partial(_read_password, Path(config.password_file))
    if config.password is not None:
        return config.password.get_secret_value()
    return password_in(config.url.get_secret_value()) if config.url is not None else ""


def _read_password(path: Path) -> str:
    # Only the end of the line is not part of it.
    password = path.read_bytes().decode(errors="replace").rstrip("\r\n")
    if not password:
        raise ConnectionFailed(f"the Postgres password file {path} is empty")
    return password
