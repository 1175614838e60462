"""Detection of a pooler between the service and its database."""

import secrets

import asyncpg

from service_server.errors import CannotStart
from service_server.store.database import Connection, Database

# A pooler may give out the same session twice in a row by chance.
_ATTEMPTS = 3
_PID = "SELECT pg_backend_pid()"


async def is_shared(
    connection: "asyncpg.Connection[asyncpg.Record] | Connection", database: Database
) -> bool:
    """Return whether a pooler shares the server session of ``connection`` between transactions.

    Compare sessions while a transaction is open elsewhere: a pooler that shares them gives that
    transaction the session that has just become free, or has to give this connection another one.
    """
    for _ in range(_ATTEMPTS):
        pid = await connection.fetchval(_PID)
        async with database.transaction() as other:
            # The second query runs only if needed: the pooler may have no second session.
            if await other.fetchval(_PID) == pid or await connection.fetchval(_PID) != pid:
                return True
    return False


async def require_sessions(direct: Database, database: Database) -> None:
    """Check that ``direct`` leads to the same database as ``database``, and keeps its sessions.

    Raises:
        CannotStart: It does not.
        StoreUnavailable: One of the two is unavailable.
    """
    async with direct.connection() as connection:
        if await is_shared(connection, database):
            raise CannotStart(
                "database_session_url leads through a pooler that shares its sessions, as"
                " database_url may: give it the address of Postgres itself, or of a pooler in"
                " session mode"
            )
    key = secrets.randbits(63)
    async with direct.transaction() as connection, database.transaction() as other:
        # An advisory lock is visible throughout one database, and nowhere else.
        await connection.execute("SELECT pg_advisory_xact_lock($1)", key)
        if await other.fetchval("SELECT pg_try_advisory_xact_lock($1)", key):
            raise CannotStart(
                "database_session_url and database_url lead to different databases: both must name"
                " the database that holds the service's tables"
            )
