"""The connections to the service's own Postgres."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Self, TypeAlias

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from pipesync_postgres.hosts import LastHost
from pipesync_postgres.password_command import PasswordCommand
from pipesync_rpc.sqlstates import READ_ONLY_SETTINGS, pooler_remedy
from service_server.errors import CannotStart, StoreUnavailable
from service_server.store.connecting import connect
from service_server.store.faults import DRIVER_FAULTS, is_of_connection, store_faults
from service_server.store.statements import connection_options, learn_types

Connection: TypeAlias = "PoolConnectionProxy[asyncpg.Record]"

# Seconds to wait for a connection, and then for each statement. Together they are less than the ten
# after which no call is to be unanswered, whatever has become of the network. Every statement here
# touches a few rows; one that takes longer waits for something that is gone.
_CONNECT_TIMEOUT = 4.5
_STATEMENT_TIMEOUT = 5.0
# Seconds for ending what a call has left over a connection, before that is given up.
_END_TIMEOUT = 1.0
# A commit that is answered outlives a crash of Postgres, whatever the settings of the role or the
# database say; stricter ones stay. https://www.postgresql.org/docs/current/wal-async-commit.html
_BEGIN = """
    BEGIN ISOLATION LEVEL READ COMMITTED;
    SELECT set_config('synchronous_commit', 'local', true)
    WHERE current_setting('synchronous_commit') = 'off'
"""


class Database:
    """A pool of connections that says in the service's own words when Postgres is gone.

    It holds nothing in a server session between two transactions, so that a pooler may give each
    transaction another one.
    """

    def __init__(
        self,
        pool: "asyncpg.Pool[asyncpg.Record]",
        url: str,
        password_command: PasswordCommand | None = None,
    ) -> None:
        """``url`` is where the pool leads, for whoever needs a connection of its own."""
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
        """Connects, and closes all connections at the end.

        Args:
            url: ``postgresql://...``
            max_connections: How many may be open at once.
            password_command: What prints the password, in place of one in ``url``.

        Raises:
            StoreUnavailable: Postgres cannot be reached, or refuses the user.
            CannotStart: A pooler in between refuses the way in which the service uses it.
        """
        with store_faults():
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
                    reset=_leave_as_it_is,
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
        """One connection of the pool.

        A single statement over it commits as the settings of the role say: what must outlive a
        crash of Postgres goes into a ``transaction``.

        Raises:
            StoreUnavailable: Postgres was, or went, away, or cannot do it now.
        """
        with store_faults():
            connection = await self._acquire()
            try:
                yield connection
            except DRIVER_FAULTS as error:
                if is_of_connection(error):
                    # Nothing is asked any more over a connection that may be silent, or whose
                    # statements were described before a migration changed a table.
                    _terminate(connection)
                    await self._pool.expire_connections()
                raise
            finally:
                await self._give_back(connection)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """One connection with a transaction that is committed unless the body raises.

        Once it is committed, it outlives a crash of Postgres.

        Raises:
            StoreUnavailable: Postgres was, or went, away, and nobody knows whether it committed; or
                it cannot do it now.
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
            # The server lets no more in, or takes no password: those that are in may go on.
            if not self._pool.get_idle_size():
                raise
            _put_open_ones_first(self._pool)
            return await self._pool.acquire(timeout=_CONNECT_TIMEOUT)

    async def _give_back(self, connection: Connection) -> None:
        if _is_read_only(connection):
            # What it answers may be old, and its successor is elsewhere.
            await self._pool.expire_connections()
        # One that cannot be given back in time is given up.
        with suppress(*DRIVER_FAULTS):
            await self._pool.release(connection, timeout=_END_TIMEOUT)


async def _roll_back(connection: Connection, error: BaseException) -> None:
    if is_of_connection(error):
        return
    try:
        await connection.execute("ROLLBACK", timeout=_END_TIMEOUT)
    except BaseException:
        # What went wrong in the body is what is raised.
        _terminate(connection)


def _terminate(connection: Connection) -> None:
    # One that was lost has left the pool by itself.
    with suppress(asyncpg.InterfaceError):
        connection.terminate()


def _put_open_ones_first(pool: "asyncpg.Pool[asyncpg.Record]") -> None:
    """Have the pool give out connections that are open before it opens others.

    It gives out first what it was given back last, so that a place where no connection could be
    opened would hide those that are open.
    """
    places = pool._queue  # type: ignore[attr-defined]  # the stubs leave it out
    waiting = [places.get_nowait() for _ in range(places.qsize())]
    for place in sorted(waiting, key=lambda one: bool(one.is_connected())):
        places.put_nowait(place)


def _is_read_only(connection: Connection) -> bool:
    """Whether the server has said so of itself, as it does since version 14."""
    try:
        settings = connection.get_settings()
    except asyncpg.InterfaceError:
        return False
    return any(getattr(settings, name, "off") == "on" for name in READ_ONLY_SETTINGS)


async def _close(pool: "asyncpg.Pool[asyncpg.Record]") -> None:
    try:
        async with asyncio.timeout(_END_TIMEOUT):
            await pool.close()
    except DRIVER_FAULTS:
        pool.terminate()


async def _leave_as_it_is(_: object) -> None:
    """Spares a round trip: nothing here changes a session, and transactions are ended anyway."""
