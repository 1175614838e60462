"""Connections whose statements have no name, so that a transaction pooler may stand in between.

A pooler in transaction mode gives each transaction whichever server session is free, and with it
the prepared statements that others left there. A statement without a name is parsed and run in one
message exchange, which no pooler splits: https://www.pgbouncer.org/features.html
"""

from typing import Any

import asyncpg

# A program has fewer statements; a caller that makes up others does not fill the memory.
_MOST_DESCRIPTIONS = 500


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
        if described is not None:
            # Another statement has taken its place in the session.
            described.mark_unprepared()
            return described
        described = await super()._get_statement(query, timeout, **options)  # type: ignore[misc]  # the stubs leave it out
        # With a name, or prepared for good, it is someone else's to use again.
        if described.name:
            return described
        if not self.is_in_transaction():
            # The statement runs in another session, perhaps, than the one that described it.
            described.mark_unprepared()
        if len(self._descriptions) >= _MOST_DESCRIPTIONS:
            self._descriptions.clear()
        self._descriptions[key] = described
        return described

    def _drop_local_statement_cache(self) -> None:
        """Forget the descriptions when the driver finds that a table has changed."""
        self._descriptions.clear()
        super()._drop_local_statement_cache()  # type: ignore[misc]  # the stubs leave it out
