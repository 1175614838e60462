"""Connections whose statements have no name, so that a transaction pooler may stand in between.

A pooler in transaction mode gives each transaction whichever server session is free, and with it
the prepared statements that others left there. A statement without a name is parsed and run in one
message exchange, which no pooler splits: https://www.pgbouncer.org/features.html
"""

from typing import Any, TypeAlias

import asyncpg

Options: TypeAlias = dict[str, Any]

# The statements of the service are fewer; a caller that makes up others does not fill the memory.
_MOST_DESCRIPTIONS = 500
# Arrays that the driver has to ask Postgres about, for which it changes a setting of the session.
_ARRAYS = "SELECT $1::bytea[], $2::timestamptz[], $3::integer[], $4::smallint[], $5::bigint[]"


class UnnamedStatements(asyncpg.Connection):
    """A connection that names no statement, and has each one described only once.

    The driver with its cache turned off has a statement parsed and described before each use, and
    then parsed again. Here the description is kept: parsing and running take one round trip.
    """

    __slots__ = ("_descriptions",)

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._descriptions: dict[object, Any] = {}

    async def _get_statement(self, query: str, timeout: float | None, **options: Any) -> Any:
        """Extend the driver's own method, without which each statement takes two round trips."""
        key = (query, *options.items())
        described = self._descriptions.get(key)
        if described is None:
            described = await super()._get_statement(query, timeout, **options)  # type: ignore[misc]  # the stubs leave it out
            # With a name, or prepared for good, it is someone else's to use again.
            if described.name:
                return described
            described.mark_unprepared()
            if len(self._descriptions) >= _MOST_DESCRIPTIONS:
                self._descriptions.clear()
            self._descriptions[key] = described
        return described

    def _drop_local_statement_cache(self) -> None:
        """Forget the descriptions when the driver finds that a table has changed."""
        self._descriptions.clear()
        super()._drop_local_statement_cache()  # type: ignore[misc]  # the stubs leave it out


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
    finally:
        # To put the setting back would leave it set for this session.
        await transaction.rollback()
