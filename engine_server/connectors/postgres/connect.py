"""How a connection to the user's Postgres is made: where to, as whom, and over what TLS."""

import asyncio
import ssl
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg

from engine_server.connectors.postgres.config import PostgresConfig, SslMode, url_parameter
from engine_server.errors import ConnectionFailed

_APPLICATION_NAME = "pipesync"
# Seconds.
_TIMEOUT = 10.0


async def connect(config: PostgresConfig, *_: Any, **of_the_pool: Any) -> asyncpg.Connection:
    """A new connection.

    Nothing is asked of a session that a pooler between us and Postgres could not keep: no prepared
    statement has a name, and no setting but the application's name is made when we connect.
    https://www.pgbouncer.org/features.html

    Args:
        config: Where to, as whom, and over what TLS.
        of_the_pool: What a pool asks of the driver for its connections.

    Raises:
        ConnectionFailed: The configuration leads nowhere.
        OSError, asyncpg.PostgresError: As the driver does; TimeoutError when nothing is answered.
    """
    try:
        connection: asyncpg.Connection = await asyncpg.connect(**_options(config), **of_the_pool)
    except ssl.SSLError:
        # One that is a ValueError, too, is about the server's certificate.
        raise
    except ValueError:
        # The driver's text may quote a piece of the password, so it is left out.
        raise ConnectionFailed(
            "the Postgres url cannot be understood: special characters in its password must be "
            "percent-encoded"
        ) from None
    try:
        async with asyncio.timeout(_TIMEOUT):
            await _take_jsonb_as_bytes(connection)
    except BaseException:
        connection.terminate()
        raise
    return connection


def _options(config: PostgresConfig) -> dict[str, Any]:
    url = _url(config)
    name = config.application_name or url_parameter(url, "application_name") or _APPLICATION_NAME
    options: dict[str, Any] = {
        "timeout": _TIMEOUT,
        "ssl": _tls(config),
        "server_settings": {"application_name": name},
        # So no statement is kept under a name. Were the cache itself turned off, the driver would
        # have every statement parsed twice; it need not, all of ours being in transactions.
        "max_cacheable_statement_size": 1,
    }
    if url:
        options["dsn"] = url
    else:
        options.update(
            host=config.host, port=config.port, database=config.database, user=config.user
        )
    if config.password_file is not None:
        options["password"] = partial(_read_password, Path(config.password_file))
    elif config.password is not None:
        options["password"] = config.password.get_secret_value()
    return options


def _tls(config: PostgresConfig) -> ssl.SSLContext | SslMode | None:
    """What the driver takes as ``ssl``; None leaves it to the URL."""
    url = _url(config)
    mode = config.ssl_mode or url_parameter(url, "sslmode")
    if config.ssl_ca_pem is None and mode not in {"verify-ca", "verify-full"}:
        return config.ssl_mode
    # Not create_default_context(): from Python 3.13 on it asks more of a private authority's
    # certificates than libpq does.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = mode != "verify-ca"
    authorities = url_parameter(url, "sslrootcert")
    certificate = url_parameter(url, "sslcert")
    try:
        if config.ssl_ca_pem is not None:
            context.load_verify_locations(cadata=config.ssl_ca_pem)
        elif authorities in {None, "system"}:
            context.load_default_certs()
        else:
            context.load_verify_locations(cafile=authorities)
        if certificate is not None:
            context.load_cert_chain(certificate, keyfile=url_parameter(url, "sslkey"))
    except OSError as error:
        raise ConnectionFailed(
            f"sslrootcert, sslcert or sslkey in the Postgres url cannot be read: {error}"
        ) from error
    return context


def _read_password(path: Path) -> str:
    # Only the end of the line is not part of it.
    password = path.read_bytes().decode(errors="replace").rstrip("\r\n")
    if not password:
        raise ConnectionFailed(f"the Postgres password file {path} is empty")
    return password


def _url(config: PostgresConfig) -> str:
    return config.url.get_secret_value() if config.url is not None else ""


async def _take_jsonb_as_bytes(connection: asyncpg.Connection) -> None:
    # It asks Postgres in two steps, between which a pooler may not change the server.
    async with connection.transaction():
        # The binary form of jsonb is a version byte and the text. Both conversions are C calls.
        await connection.set_type_codec(
            "jsonb",
            schema="pg_catalog",
            encoder=b"\x01".__add__,
            decoder=lambda data: data[1:],
            format="binary",
        )
