"""Connection pool of the service's own Postgres database."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Self, TypeAlias

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from pipesync_postgres.hosts import LastHost
from pipesync_postgres.password_command import PasswordCommand
from pipesync_postgres.read_only import (
    Ending,
    end_read_only_session,
    end_read_only_sessions,
    is_usable,
)
from pipesync_postgres.sqlstates import pooler_remedy
from service_server.errors import CannotStart, StoreUnavailable
from service_server.store.connecting import connect
from service_server.store.errors import DRIVER_ERRORS, affects_connection, store_errors
from service_server.store.statements import connection_options, learn_types

Connection: TypeAlias = "PoolConnectionProxy[asyncpg.Record]"

# Seconds to wait for a connection, and then for each statement. Together they stay below the ten
# seconds within which every call is answered, even if the network fails. Every statement here
# touches a few rows, so one that takes longer waits for a lost connection.
_CONNECT_TIMEOUT = 4.5
_STATEMENT_TIMEOUT = 5.0
# Seconds to end the transaction that a call left on a connection, before that is terminated.
_END_TIMEOUT = 1.0
# Seconds to end the read-only sessions of a pooler, during a call that fails.
_END_ALL_TIMEOUT = 2.0
# A confirmed commit survives a crash of Postgres under every setting of the role or the database;
# stricter settings stay. https://www.postgresql.org/docs/current/wal-async-commit.html
_BEGIN = """
    BEGIN ISOLATION LEVEL READ COMMITTED;
    SELECT set_config('synchronous_commit', 'local', true)
    WHERE current_setting('synchronous_commit') = 'off'
"""


class Database:
    """A connection pool that raises the service's own errors.

    It keeps no state in a server session between two transactions, so that a pooler may serve each
    transaction by another session.
    """

    def __init__(
        self,
        pool: "asyncpg.Pool[asyncpg.Record]",
        url: str,
        password_command: PasswordCommand | None = None,
    ) -> None:
        """Wrap a pool.

        Args:
            pool: The pool.
            url: The pool's URL, for connections outside of it.
            password_command: Prints the password, which ``url`` then lacks.
        """
        self._pool = pool
        self.url = url
        self.password_command = password_command

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        url: str,
        *,
        max_connections: int = 10,
        password_command: PasswordCommand | None = None,
    ) -> AsyncIterator[Self]:
        """Open a pool, and close it after the body.

        Args:
            url: ``postgresql://...``
            max_connections: Maximum number of open connections.
            password_command: Prints the password, which ``url`` then lacks.

        Raises:
            StoreUnavailable: Postgres is unreachable, or refuses the user.
            CannotStart: A pooler refuses the service's connection options.
        """
        with store_errors():
            try:
                pool = await asyncpg.create_pool(
                    url,
                    connect=partial(
                        connect, password_command=password_command, last_host=LastHost()
                    ),
                    min_size=1,
                    max_size=max_connections,
                    timeout=_CONNECT_TIMEOUT,
                    command_timeout=_STATEMENT_TIMEOUT,
                    init=learn_types,
                    reset=_skip_reset,
                    **connection_options("pipesync service-server"),
                )
            except asyncpg.PostgresConnectionError as error:
                if remedy := pooler_remedy(str(error)):
                    raise CannotStart(
                        f"the service's database refuses it: {error}: {remedy}"
                    ) from error
                raise
            except (
                asyncpg.InvalidAuthorizationSpecificationError,
                asyncpg.InvalidCatalogNameError,
            ) as error:
                raise StoreUnavailable(f"the service's database refuses it: {error}") from error
        try:
            yield cls(pool, url, password_command)
        finally:
            await _close(pool)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Take a connection from the pool for the body.

        The role's settings decide whether a single statement survives a crash of Postgres. A write
        that has to survive needs a ``transaction``.

        Raises:
            StoreUnavailable: Postgres is unavailable, or became so, or refuses for now.
        """
        with store_errors():
            connection = await self._acquire()
            ending = Ending.WRITABLE
            try:
                yield connection
            except DRIVER_ERRORS as error:
                if affects_connection(error):
                    if isinstance(error, asyncpg.ReadOnlySQLTransactionError):
                        ending = await end_read_only_session(connection)
                    # The connection may be silent, or may hold descriptions of statements from
                    # before a migration changed a table.
                    _terminate(connection)
                    await self._pool.expire_connections()
                raise
            finally:
                await self._release(connection)
                if ending is Ending.ENDED:
                    # The body cannot be repeated here: the next call has to find no other one.
                    await self._end_read_only_sessions()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Begin a transaction for the body, and commit it unless the body raises.

        A committed transaction survives a crash of Postgres.

        Raises:
            StoreUnavailable: Postgres is unavailable, or refuses for now. If it became so during
                the commit, the transaction may or may not be committed.
        """
        async with self.connection() as connection:
            await connection.execute(_BEGIN)
            try:
                yield connection
            except BaseException as error:
                await _roll_back(connection, error)
                raise
            await connection.execute("COMMIT")

    async def _acquire(self) -> Connection:
        try:
            return await self._pool.acquire(timeout=_CONNECT_TIMEOUT)
        except asyncpg.PostgresError:
            # The server accepts no new connections or no password; open connections may still work.
            if not self._pool.get_idle_size():
                raise
            _prefer_open_connections(self._pool)
            return await self._pool.acquire(timeout=_CONNECT_TIMEOUT)

    async def _end_read_only_sessions(self) -> None:
        async def end(age: float) -> Ending:
            connection = await self._acquire()
            try:
                return await end_read_only_session(connection, age=age)
            finally:
                await self._release(connection)

        with suppress(*DRIVER_ERRORS):
            async with asyncio.timeout(_END_ALL_TIMEOUT):
                await end_read_only_sessions(end)
        # The pool may have completed a connection that was begun before the timeout.
        await self._pool.expire_connections()

    async def _release(self, connection: Connection) -> None:
        if not await is_usable(connection):
            # The server may have become a standby, whose answers may be old: connect anew.
            await self._pool.expire_connections()
        # On a timeout, the pool terminates the connection.
        with suppress(*DRIVER_ERRORS):
            await self._pool.release(connection, timeout=_END_TIMEOUT)


async def _roll_back(connection: Connection, error: BaseException) -> None:
    if affects_connection(error):
        return
    try:
        await connection.execute("ROLLBACK", timeout=_END_TIMEOUT)
    except BaseException:
        # The caller raises the error of the body instead.
        _terminate(connection)


def _terminate(connection: Connection) -> None:
    # The pool has already dropped a connection that was lost.
    with suppress(asyncpg.InterfaceError):
        connection.terminate()


def _prefer_open_connections(pool: "asyncpg.Pool[asyncpg.Record]") -> None:
    """Reorder the pool so that it uses open connections before it opens others.

    It first uses the holder that was released last, so that one whose connection cannot be opened
    would hide those that are open.
    """
    holders = pool._queue  # type: ignore[attr-defined]  # the stubs leave it out
    waiting = [holders.get_nowait() for _ in range(holders.qsize())]
    for holder in sorted(waiting, key=lambda one: bool(one.is_connected())):
        holders.put_nowait(holder)


async def _close(pool: "asyncpg.Pool[asyncpg.Record]") -> None:
    try:
        async with asyncio.timeout(_END_TIMEOUT):
            await pool.close()
    except DRIVER_ERRORS:
        pool.terminate()


async def _skip_reset(_: object) -> None:
    """Save a round trip: no statement here changes a session, and all transactions are ended."""
