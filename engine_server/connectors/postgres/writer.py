"""Commits batches of rows: a fault that passes is waited out, a stream that is refused left out."""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import asyncpg
import structlog

from engine_server.connectors.postgres import retry
from engine_server.connectors.postgres.faults import is_refusal
from engine_server.connectors.postgres.keys import KeyReader
from engine_server.connectors.postgres.pool import Connection, Pool
from engine_server.connectors.postgres.refusal import explain
from engine_server.connectors.postgres.rows import Rows
from engine_server.connectors.postgres.tables import Table
from engine_server.connectors.postgres.transaction import transaction
from engine_server.connectors.postgres.unstorable import key_in_words
from engine_server.connectors.postgres.upsert import upsert_arguments, upsert_statement
from engine_server.errors import ConnectorError
from pipesync.v1.progress_pb2 import RowCounts

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of the rows of one commit.

    Attributes:
        counts: What was done to the rows of each stream that was written.
        refused: Why, for each stream that was not.
    """

    counts: Mapping[str, RowCounts]
    refused: Mapping[str, str]


class Writer:
    """Writes the rows of several streams in one transaction.

    Attributes:
        key_readers: For each stream that is written, what tells its rows apart.
    """

    def __init__(
        self,
        pool: Pool,
        tables: Sequence[Table],
        *,
        hard_delete: bool,
        statement_timeout: float,
    ) -> None:
        self._pool = pool
        self._statement_timeout = statement_timeout
        self._tables = {table.stream: table for table in tables}
        self.key_readers: Mapping[str, KeyReader] = {
            table.stream: KeyReader(table) for table in tables
        }
        self._statements = {
            table.stream: upsert_statement(table, hard_delete=hard_delete) for table in tables
        }

    def key_of(self, stream: str, record: bytes) -> str:
        """The key of a record in words, for a log."""
        return key_in_words(self._tables[stream], record)

    async def commit(self, rows: Rows) -> Outcome:
        """Commits all rows, but for those of the streams that Postgres refuses.

        Writing a row twice is the same as once, so a commit whose outcome is unknown is repeated.
        Had it succeeded, its rows are counted as unchanged.

        Raises:
            ConnectionFailed: Postgres was out of reach for a minute, or does not let us in.
            ConnectorError: Postgres cannot go on, e.g. its disk is full; or the rows are of a
                stream without a table.
        """
        if unknown := sorted(rows.keys() - self._tables.keys()):
            raise ConnectorError(f"records came of streams that are not written: {unknown}")
        # Always in one order, so that two transactions cannot lock each other's rows out.
        remaining = dict(sorted(rows.items()))
        counts: Mapping[str, RowCounts] = {}
        refused: dict[str, str] = {}
        retries = retry.Retries(self._pool, patience=retry.SYNC_PATIENCE)
        while remaining:
            answer = await retries.use(partial(self._try_to_commit, remaining))
            if isinstance(answer, Mapping):
                counts = answer
                break
            stream, reason = answer
            refused[stream] = reason
            del remaining[stream]
        return Outcome(counts=counts, refused=refused)

    async def _try_to_commit(
        self, rows: Rows, connection: Connection
    ) -> Mapping[str, RowCounts] | tuple[str, str]:
        """One transaction. Answers a stream that was refused and why, nothing being kept then."""
        began = time.perf_counter()
        changes: dict[str, asyncpg.Record] = {}
        try:
            async with transaction(connection, self._statement_timeout) as begun:
                for stream, of_stream in rows.items():
                    [changes[stream]] = await begun.fetch(
                        self._statements[stream], *upsert_arguments(of_stream)
                    )
        except asyncpg.PostgresError as error:
            if not is_refusal(error):
                raise
            stream = self._refused_stream(error, changes, rows)
            reason = await explain(
                error,
                partial(transaction, connection, self._statement_timeout, keep=False),
                self._tables[stream],
                self._statements[stream],
                rows[stream],
            )
            return stream, reason
        duration_ms = round((time.perf_counter() - began) * 1000, 1)
        counts: dict[str, RowCounts] = {}
        for stream, changed in changes.items():
            received = len(rows[stream])
            counts[stream] = RowCounts(**changed, unchanged=received - sum(changed.values()))
            log.info(
                "flush_committed",
                stream=stream,
                rows=received,
                **changed,
                unchanged=counts[stream].unchanged,
                duration_ms=duration_ms,
            )
        return counts

    def _refused_stream(
        self, error: asyncpg.PostgresError, written: Collection[str], rows: Rows
    ) -> str:
        unwritten = [stream for stream in rows if stream not in written]
        if unwritten:
            return unwritten[0]
        # Only the commit was refused, by a deferred constraint of the user's.
        for stream in rows:
            table = self._tables[stream]
            if (table.schema, table.name) == (error.schema_name, error.table_name):
                return stream
        return next(iter(rows))
