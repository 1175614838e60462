"""Options of the service's connections, which name no statement."""

from contextlib import suppress
from typing import Any, TypeAlias

import asyncpg

from pipesync_postgres.unnamed_statements import UnnamedStatements

Options: TypeAlias = dict[str, Any]

# Arrays that the driver has to ask Postgres about, for which it changes a setting of the session.
_ARRAYS = "SELECT $1::bytea[], $2::timestamptz[], $3::integer[], $4::smallint[], $5::bigint[]"


def connection_options(application_name: str) -> Options:
    """Return the driver's options for connections that hold nothing between two transactions.

    Args:
        application_name: The name in pg_stat_activity. Poolers pass it on, and refuse other
            settings at the start of a connection.
    """
    return {
        "connection_class": UnnamedStatements,
        "statement_cache_size": 0,
        "server_settings": {"application_name": application_name},
    }


async def learn_types(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Have the driver learn every type that the service's statements use.

    Later it would do so between two round trips of a statement, and perhaps in another server
    session than the statement's own.
    """
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.fetch(_ARRAYS, *[[]] * 5)
    except BaseException:
        # Why it failed is what is raised, and no complaint that there is nothing to roll back.
        with suppress(asyncpg.InterfaceError, asyncpg.PostgresError):
            await transaction.rollback()
        raise
    # To put the setting back would leave it set for this session.
    await transaction.rollback()
