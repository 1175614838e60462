"""Connections with unnamed statements, which work through transaction poolers.

A pooler in transaction mode gives each transaction any free server session, along with the prepared
statements that others left there. An unnamed statement is parsed and run in one message exchange,
which no pooler splits: https://www.pgbouncer.org/features.html
"""

from typing import Any

import asyncpg

# More than a program uses; the limit keeps generated statements from filling the memory.
_MAX_DESCRIPTIONS = 500


class UnnamedStatements(asyncpg.Connection):
    """A connection with unnamed statements, each of which is described only once.

    Without its cache, the driver has a statement parsed and described before each use, and then
    parsed again. This class keeps the description, so that parsing and running take one round trip.
    """

    __slots__ = ("_descriptions",)

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._descriptions: dict[object, Any] = {}

    async def _get_statement(self, query: str, timeout: float | None, **options: Any) -> Any:
        """Override the driver's method, with which each statement takes two round trips."""
        key = (query, *options.items())
        described = self._descriptions.get(key)
        if described is not None:
            # Another statement has replaced it in the session.
            described.mark_unprepared()
            return described
        described = await super()._get_statement(query, timeout, **options)  # type: ignore[misc]  # the stubs leave it out
        # A named statement, or one prepared explicitly, is not ours to reuse.
        if described.name:
            return described
        if not self.is_in_transaction():
            # The statement may run in a different session from the one that described it.
            described.mark_unprepared()
        if len(self._descriptions) >= _MAX_DESCRIPTIONS:
            self._descriptions.clear()
        self._descriptions[key] = described
        return described

    def _drop_local_statement_cache(self) -> None:
        """Discard the descriptions when the driver finds that a table has changed."""
        self._descriptions.clear()
        super()._drop_local_statement_cache()  # type: ignore[misc]  # the stubs leave it out
