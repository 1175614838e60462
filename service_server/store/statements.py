"""Options of the service's connections, which use no named statements."""

from contextlib import suppress
from typing import Any, TypeAlias

import asyncpg

from pipesync_postgres.unnamed_statements import UnnamedStatements

Options: TypeAlias = dict[str, Any]

# Arrays whose types the driver queries, for which it changes a setting of the session.
_ARRAYS = "SELECT $1::bytea[], $2::timestamptz[], $3::integer[], $4::smallint[], $5::bigint[]"


def connection_options(application_name: str) -> Options:
    """Return the driver's options for connections without state between two transactions.

    Args:
        application_name: The name in pg_stat_activity. Poolers pass it on, but refuse other
            settings at the start of a connection.
    """
    return {
        "connection_class": UnnamedStatements,
        "statement_cache_size": 0,
        "server_settings": {"application_name": application_name},
    }


async def learn_types(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Make the driver query every type that the service's statements use.

    Otherwise it would do so between two round trips of a statement, where a pooler may use another
    server session.
    """
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.fetch(_ARRAYS, *[[]] * 5)
    except BaseException:
        # The caller raises the first error, not the one that there is nothing to roll back.
        with suppress(asyncpg.InterfaceError, asyncpg.PostgresError):
            await transaction.rollback()
        raise
    # A rollback restores the setting; resetting it would leave it set in this session.
    await transaction.rollback()
