"""Trials of probes, many tables at a time."""

import time
from collections.abc import Sequence

import asyncpg

from engine_server.connectors.postgres.check.probe import Probe, sample_statement, scripts_of
from engine_server.connectors.postgres.connection.errors import (
    is_connection_error,
    lies_in_a_record,
)
from engine_server.connectors.postgres.connection.pool import Connection
from engine_server.connectors.postgres.connection.transaction import Transaction
from engine_server.connectors.postgres.schema.tables import Table

# Seconds for which a check and a concurrent sync may block each other.
_LOCK_TIMEOUT = 0.5
_STATEMENT_TIMEOUT = 3.0
# Seconds for all tables together. Tables that are left untried are reported.
_TIME_FOR_ALL = 15.0
# Tables in one script, with about 15 kB for each.
_MOST_TOGETHER = 32
# Also raised by a row security policy, which may depend on the row.
_LACKS_RIGHT = "42501"
_LIMITS = (
    "SET LOCAL lock_timeout = {lock}; SET LOCAL statement_timeout = {statement}; "
    "SET LOCAL standard_conforming_strings = on"
)


class Trial:
    """Results of writing one row to each table as a sync would.

    Attributes:
        refused: The error of each stream whose table refused the row.
        has_sample: The streams whose error was raised for a row like one that the table holds.
        untried: The tables for which there was no time.
    """

    def __init__(self, *, hard_delete: bool) -> None:
        self.refused: dict[str, asyncpg.PostgresError] = {}
        self.has_sample: set[str] = set()
        self.untried: list[Table] = []
        self._hard_delete = hard_delete
        self._ends_at = time.monotonic() + _TIME_FOR_ALL

    async def run(self, connection: Connection, tables: Sequence[Table]) -> None:
        """Try a row in each table, in a transaction that is rolled back.

        Raises:
            asyncpg.PostgresError: The connection was lost, or Postgres refused a setting.
            TimeoutError: Postgres did not answer; the connection is dropped.
        """
        tried = connection.transaction()
        await tried.start()
        try:
            begun = Transaction(connection, _TIME_FOR_ALL)
            limits = _LIMITS.format(
                lock=round(_LOCK_TIMEOUT * 1000), statement=round(_STATEMENT_TIMEOUT * 1000)
            )
            await begun.execute(limits)
            probes = [Probe(table, self._hard_delete) for table in tables]
            for first in range(0, len(probes), _MOST_TOGETHER):
                await self._try(begun, probes[first : first + _MOST_TOGETHER])
            for table in tables:
                if table.stream in self.refused:
                    await self._try_others(begun, table)
        finally:
            if not connection.is_closed():
                await tried.rollback()

    async def _try(self, begun: Transaction, probes: Sequence[Probe]) -> None:
        """Try the probes together, and bisect them where a table refuses its row."""
        if time.monotonic() > self._ends_at:
            self.untried += [probe.table for probe in probes]
            return
        error = await _error_of(begun, scripts_of(probes))
        if error is None:
            return
        if len(probes) == 1:
            self.refused[probes[0].table.stream] = error
            return
        middle = len(probes) // 2
        await self._try(begun, probes[:middle])
        await self._try(begun, probes[middle:])

    async def _try_others(self, begun: Transaction, table: Table) -> None:
        """Try other rows where the content may have caused the refusal."""
        error = self.refused[table.stream]
        may_lie_in_it = lies_in_a_record(error) or error.sqlstate == _LACKS_RIGHT
        if not may_lie_in_it or time.monotonic() > self._ends_at:
            return
        probe = Probe(table, self._hard_delete)
        others = [probe.with_all_fields()]
        if sample := await begun.fetch(sample_statement(table)):
            others.append(probe.like(sample[0][0]))
        for other in others:
            again = await _error_of(begun, scripts_of([other]))
            if again is None:
                del self.refused[table.stream]
                return
            self.refused[table.stream] = again
        if sample:
            self.has_sample.add(table.stream)


async def _error_of(begun: Transaction, script: str) -> asyncpg.PostgresError | None:
    await begun.execute("SAVEPOINT pipesync_trial")
    try:
        await begun.execute(f"{script};\nRELEASE pipesync_trial")
    except asyncpg.PostgresError as error:
        if is_connection_error(error):
            raise
        await begun.execute("ROLLBACK TO pipesync_trial")
        return error
    return None
