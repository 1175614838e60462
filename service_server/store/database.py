"""The connections to the service's own Postgres."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Self, TypeAlias

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from pipesync_postgres.password_command import PasswordCommand
from service_server.errors import CannotStart, StoreUnavailable
from service_server.store.connecting import connect
from service_server.store.statements import connection_options, learn_types

Connection: TypeAlias = "PoolConnectionProxy[asyncpg.Record]"

_CONNECT_TIMEOUT = 10.0
# Every statement here touches a few rows; one that takes longer waits for something that is gone.
_STATEMENT_TIMEOUT = 30.0
_UNREACHABLE = (
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.InterfaceError,
    # A server's farewell found the driver between two queries.
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
)
# pgbouncer's answer to BEGIN, with which it hangs up.
_STATEMENT_MODE = "statement pooling mode"


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
            CannotStart: A pooler allows no transactions.
        """
        with _reachable():
            try:
                pool = await asyncpg.create_pool(
                    url,
                    connect=partial(connect, password_command=password_command),
                    min_size=1,
                    max_size=max_connections,
                    timeout=_CONNECT_TIMEOUT,
                    command_timeout=_STATEMENT_TIMEOUT,
                    init=learn_types,
                    reset=_leave_as_it_is,
                    **connection_options("pipesync service-server"),
                )
            except asyncpg.PostgresConnectionError as error:
                if _STATEMENT_MODE in str(error):
                    raise CannotStart(
                        "the service's database is behind a pooler in statement mode, which allows"
                        " no transactions: set its pool_mode to transaction or session"
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
            await pool.close()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """One connection of the pool.

        Raises:
            StoreUnavailable: Postgres was, or went, away.
        """
        with _reachable():
            async with self._pool.acquire(timeout=_CONNECT_TIMEOUT) as connection:
                try:
                    yield connection
                except asyncpg.InternalClientError:
                    # A migration may have changed a table since its columns were described.
                    connection.terminate()
                    await self._pool.expire_connections()
                    raise

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """One connection with a transaction that is committed unless the body raises.

        Raises:
            StoreUnavailable: Postgres was, or went, away: nobody knows whether it committed.
        """
        async with self.connection() as connection, connection.transaction():
            yield connection


async def _leave_as_it_is(_: object) -> None:
    """Spares a round trip: nothing here changes a session, and transactions are ended anyway."""


@contextmanager
def _reachable() -> Iterator[None]:
    try:
        yield
    except _UNREACHABLE as error:
        if isinstance(error, ValueError):  # asyncpg's word for an argument of the wrong type.
            raise
        raise StoreUnavailable(
            f"the service's database cannot be reached ({type(error).__name__})"
        ) from error
