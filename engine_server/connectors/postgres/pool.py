"""Connections to the user's Postgres, with its errors said in our words."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.faults import describe, is_connection_fault
from engine_server.errors import ConnectionFailed, ConnectorError

Pool = asyncpg.Pool
Connection = PoolConnectionProxy

MAX_CONNECTIONS = 2
_CONNECT_TIMEOUT = 10.0
# The engine promises that a cancelled call stops within a second.
_CLOSE_TIMEOUT = 0.5
_SERVER_SETTINGS = {
    "application_name": "pipesync",
    # A plan made while a table is small joins by reading it whole; kept, it makes each batch slower
    # as the table grows (measured: half the speed at 100,000 rows). Planning anew costs 1 us a row.
    "plan_cache_mode": "force_custom_plan",
}


@asynccontextmanager
async def open_pool(config: PostgresConfig) -> AsyncIterator[Pool]:
    """A pool of at most two connections, that is gone half a second after its use at the latest.

    Raises:
        ConnectionFailed: The first connection cannot be made.
    """
    with errors_in_our_words():
        pool = await _create_pool(config)
    try:
        yield pool
    finally:
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT):
                await pool.close()
        except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            pool.terminate()


@asynccontextmanager
async def connect(config: PostgresConfig) -> AsyncIterator[Connection]:
    """One connection.

    Raises:
        ConnectionFailed: It cannot be made, or was lost.
        ConnectorError: Postgres refused what was asked of it.
    """
    async with open_pool(config) as pool:
        with errors_in_our_words():
            async with pool.acquire() as connection:
                yield connection


@contextmanager
def errors_in_our_words() -> Iterator[None]:
    """Turns the driver's errors into ConnectionFailed and ConnectorError."""
    try:
        yield
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        if is_connection_fault(error):
            raise ConnectionFailed(f"Postgres cannot be reached: {describe(error)}") from error
        raise ConnectorError(f"Postgres refused: {describe(error)}") from error


async def _create_pool(config: PostgresConfig) -> Pool:
    options: dict[str, Any] = {}
    if config.ssl_ca_pem is not None:
        options["ssl"] = ssl.create_default_context(cadata=config.ssl_ca_pem)
    if config.url is not None:
        options["dsn"] = config.url.get_secret_value()
    else:
        options.update(
            host=config.host, port=config.port, database=config.database, user=config.user
        )
        if config.password is not None:
            options["password"] = config.password.get_secret_value()
    try:
        return await asyncpg.create_pool(
            **options,
            min_size=1,
            max_size=MAX_CONNECTIONS,
            max_inactive_connection_lifetime=0,
            timeout=_CONNECT_TIMEOUT,
            server_settings=_SERVER_SETTINGS,
            init=_take_jsonb_as_bytes,
        )
    except ValueError:
        # The driver's text may quote a piece of the password, so it is left out.
        raise ConnectionFailed(
            "the Postgres url cannot be understood: special characters in its password must be "
            "percent-encoded"
        ) from None


async def _take_jsonb_as_bytes(connection: asyncpg.Connection) -> None:
    # The binary form of jsonb is a version byte and the text. Both conversions are C calls.
    await connection.set_type_codec(
        "jsonb",
        schema="pg_catalog",
        encoder=b"\x01".__add__,
        decoder=lambda data: data[1:],
        format="binary",
    )
