"""Connections to the user's Postgres, shared by its pipelines."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.connect import connect
from engine_server.connectors.postgres.faults import DRIVER_ERRORS
from pipesync_postgres.hosts import LastHost
from pipesync_rpc.sqlstates import READ_ONLY_SETTINGS

Pool = asyncpg.Pool
Connection = PoolConnectionProxy
T = TypeVar("T")

# Of all pipelines of the process to one database, which lets in 100 unless told otherwise.
MAX_CONNECTIONS = 20
# Seconds after which one that nobody needs is given back.
_IDLE_TIMEOUT = 10.0
# The engine promises that a cancelled call stops within a second.
_CANCEL_TIMEOUT = 0.3
_CLOSE_TIMEOUT = 0.3


@dataclass(slots=True, kw_only=True)
class _SharedPool:
    """A pool, how many blocks it is open for, and what closes it when there are none."""

    pool: Pool
    users: int = 0
    closing: asyncio.Task[None] | None = None


_POOLS: dict[Hashable, _SharedPool] = {}
# How many blocks let pools linger.
_lingering = 0


@asynccontextmanager
async def open_pool(config: PostgresConfig) -> AsyncIterator[Pool]:
    """The process's one pool for this database, gone soon after its last use come what may.

    A pipeline that waits for its source holds no connection of it, and one that has rows to write
    waits for its turn: however many there are, the server is not asked for more than it has.
    """
    address = _address(config)
    if address not in _POOLS:
        # It connects when it is first used, so nothing else can run before it is kept.
        _POOLS[address] = _SharedPool(pool=await _create_pool(config))
    shared = _POOLS[address]
    shared.users += 1
    if shared.closing is not None:
        shared.closing.cancel()
        shared.closing = None
    try:
        yield shared.pool
    finally:
        shared.users -= 1
        if not shared.users and _lingering:
            shared.closing = asyncio.create_task(_close_by_and_by(address))
        elif not shared.users:
            await _close(_POOLS.pop(address).pool)


@asynccontextmanager
async def lingering_pools() -> AsyncIterator[None]:
    """Lets pools be found again during the block for as long as their connections are kept.

    To connect takes Postgres longer than to write a few rows.
    """
    global _lingering
    _lingering += 1
    try:
        yield
    finally:
        _lingering -= 1
        if not _lingering:
            await asyncio.gather(*map(_close_now, [*_POOLS]))


async def use(pool: Pool, work: Callable[[Connection], Awaitable[T]]) -> T:
    """Does ``work`` over one connection, and when cancelled does not wait for it for long.

    A cancelled transaction waits for the server's word, which a server out of reach does not give:
    then the connection is dropped.
    """
    used: Connection | None = None

    async def do() -> T:
        nonlocal used
        async with pool.acquire() as used:
            try:
                return await work(used)
            finally:
                # To cancel a statement may hit the end of its transaction in its place. This error
                # is about one that the work dropped.
                with suppress(asyncpg.InterfaceError):
                    if not used.is_closed() and used.is_in_transaction():
                        used.terminate()
                    elif _is_read_only(used):
                        # What it answers may be old, and its successor is elsewhere.
                        await pool.expire_connections()

    task = asyncio.create_task(do())
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.cancel()
        _, stuck = await asyncio.wait([task], timeout=_CANCEL_TIMEOUT)
        if stuck and used is not None:
            # It may be back in the pool by now. This error would take the cancellation's place, and
            # the work would be tried again.
            with suppress(asyncpg.InterfaceError):
                used.terminate()
        await asyncio.gather(task, return_exceptions=True)
        raise


def _is_read_only(connection: Connection) -> bool:
    """Whether the server has said so of itself, as it does since version 14."""
    if connection.is_closed():
        return False
    settings = connection.get_settings()
    return any(getattr(settings, name, "off") == "on" for name in READ_ONLY_SETTINGS)


async def _close_by_and_by(address: Hashable) -> None:
    await asyncio.sleep(_IDLE_TIMEOUT)
    await _close(_POOLS.pop(address).pool)


async def _close_now(address: Hashable) -> None:
    if (closing := _POOLS[address].closing) is not None:
        closing.cancel()
        await _close(_POOLS.pop(address).pool)


async def _close(pool: Pool) -> None:
    try:
        async with asyncio.timeout(_CLOSE_TIMEOUT):
            await pool.close()
    except DRIVER_ERRORS:
        pool.terminate()


def _address(config: PostgresConfig) -> Hashable:
    """What pipelines have in common that may share their connections."""
    return (
        config.url,
        config.host,
        config.port,
        config.database,
        config.user,
        config.password,
        config.password_file,
        config.ssl_mode,
        config.ssl_ca_pem,
        config.application_name,
    )


async def _create_pool(config: PostgresConfig) -> Pool:
    return await asyncpg.create_pool(
        connect=partial(connect, config, last_host=LastHost()),
        min_size=0,
        max_size=MAX_CONNECTIONS,
        max_inactive_connection_lifetime=_IDLE_TIMEOUT,
        reset=_leave_as_it_is,
    )


async def _leave_as_it_is(connection: asyncpg.Connection) -> None:
    """Nothing is kept in a session, so there is nothing to ask Postgres to forget."""
