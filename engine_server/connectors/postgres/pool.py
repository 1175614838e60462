"""Connections to the user's Postgres, with its errors said in our words."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.faults import DRIVER_ERRORS, describe, is_connection_fault
from engine_server.errors import ConnectionFailed, ConnectorError

Pool = asyncpg.Pool
Connection = PoolConnectionProxy
T = TypeVar("T")

MAX_CONNECTIONS = 2
_CONNECT_TIMEOUT = 10.0
# The engine promises that a cancelled call stops within a second.
_CANCEL_TIMEOUT = 0.3
_CLOSE_TIMEOUT = 0.3
_SERVER_SETTINGS = {
    "application_name": "pipesync",
    # Under a stricter one, what is read after waiting for a lock may be older than the lock.
    "default_transaction_isolation": "read committed",
    # A plan kept from when a table was small reads all of it when it is large. Planning anew costs
    # 1 ms a batch.
    "plan_cache_mode": "force_custom_plan",
}


@asynccontextmanager
async def open_pool(config: PostgresConfig) -> AsyncIterator[Pool]:
    """A pool of at most two connections, that is gone soon after its use whatever the server does.

    Raises:
        ConnectionFailed: The first connection cannot be made.
    """
    with _errors_in_our_words():
        pool = await _create_pool(config)
    try:
        yield pool
    finally:
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT):
                await pool.close()
        except DRIVER_ERRORS:
            pool.terminate()


async def ask(pool: Pool, question: Callable[[Connection], Awaitable[T]]) -> T:
    """What ``question`` answers, asked over one connection.

    Raises:
        ConnectionFailed: The connection cannot be made, or was lost.
        ConnectorError: Postgres refused what was asked of it.
    """

    async def asked() -> T:
        async with pool.acquire() as connection:
            return await question(connection)

    with _errors_in_our_words():
        return await cancel_promptly(pool, asked())


async def cancel_promptly(pool: Pool, work: Coroutine[Any, Any, T]) -> T:
    """Awaits ``work``, which uses ``pool``, and when cancelled does not wait for it for long.

    A cancelled transaction waits for the server's word, which a server out of reach does not give:
    then every connection of the pool is dropped.
    """
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.cancel()
        _, stuck = await asyncio.wait([task], timeout=_CANCEL_TIMEOUT)
        if stuck:
            pool.terminate()
        await asyncio.gather(task, return_exceptions=True)
        raise


@contextmanager
def _errors_in_our_words() -> Iterator[None]:
    """Turns the driver's errors into ConnectionFailed and ConnectorError."""
    try:
        yield
    except DRIVER_ERRORS as error:
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
