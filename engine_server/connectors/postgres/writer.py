"""Commits batches of rows: waits out passing faults, and keeps refused records apart."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial

import asyncpg
import structlog

from engine_server.connectors.postgres import retry
from engine_server.connectors.postgres.attempt import (
    Attempt,
    Committed,
    Suspected,
    Suspects,
    Target,
)
from engine_server.connectors.postgres.faults import is_contention
from engine_server.connectors.postgres.keys import KeyReader
from engine_server.connectors.postgres.pool import Connection, Pool
from engine_server.connectors.postgres.refusal import explain
from engine_server.connectors.postgres.rejected_records import RejectedRecords
from engine_server.connectors.postgres.rejection import Rejection, describe_key, identify
from engine_server.connectors.postgres.row_locks import lock_script, may_wait_for_each_other
from engine_server.connectors.postgres.rows import Rows, may_share_a_row
from engine_server.connectors.postgres.splitter import StreamRefused
from engine_server.connectors.postgres.tables import Table
from engine_server.connectors.postgres.transaction import transaction
from engine_server.connectors.postgres.upsert import upsert_statement
from engine_server.errors import ConnectorError
from pipesync.v1.progress_pb2 import RowCounts

log = structlog.get_logger()

# For each stream: the digest of each kept record that is tried again, and when it was last refused.
Retried = Mapping[str, Mapping[bytes, datetime]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of the rows of one commit.

    Attributes:
        counts: What was done to the rows of each stream that was written.
        refused: Why, for each stream that was not.
    """

    counts: Mapping[str, RowCounts]
    refused: Mapping[str, str]

    @property
    def filled(self) -> set[str]:
        """The streams whose tables have rows since."""
        return {name for name, rows in self.counts.items() if rows.inserted or rows.updated}


class Writer:
    """Writes the rows of several streams in one transaction.

    Attributes:
        key_readers: For each stream that is written, what tells its rows apart.
    """

    def __init__(
        self,
        pool: Pool,
        tables: Sequence[Table],
        rejected: RejectedRecords,
        *,
        hard_delete: bool,
        statement_timeout: float,
    ) -> None:
        self._pool = pool
        self._rejected = rejected
        self._hard_delete = hard_delete
        self._statement_timeout = statement_timeout
        self._tables = {table.stream: table for table in tables}
        self.key_readers: Mapping[str, KeyReader] = {
            table.stream: KeyReader(table) for table in tables
        }
        self._statements = {
            table.stream: upsert_statement(table, hard_delete=hard_delete) for table in tables
        }

        # Made where they are needed.
        self._clearing_statements: dict[str, str] = {}

    def must_follow(self, former: Rows, latter: Rows) -> bool:
        """Whether the latter rows may be committed only after the former are."""
        return may_share_a_row(former, latter) or (
            self._hard_delete and may_wait_for_each_other(self._tables, former, latter)
        )

    def key_of(self, stream: str, record: bytes) -> str:
        """The key of a record in words, for a log."""
        table = self._tables[stream]
        return describe_key(table, identify(table, record))

    async def commit(
        self,
        rows: Rows,
        retried: Retried | None = None,
        last_script: Callable[[Collection[str]], str] | None = None,
    ) -> Outcome:
        """Commits all rows, but for refused records, which are kept, and for refused streams.

        Writing a row twice is the same as once, so a commit whose outcome is unknown is repeated.
        Had it succeeded, its rows are counted as unchanged.

        Args:
            rows: The rows by stream.
            retried: The kept records that they are; None when they come from a source.
            last_script: Answers SQL to commit with, for the streams that are written, also when
                there are none.

        Raises:
            CheckpointsMoved: The lines that ``last_script`` moves are not as they were left.
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
        suspects = Suspects()
        retries = self._retries()
        while remaining or last_script is not None:
            began = time.perf_counter()
            attempt = Attempt(
                remaining,
                {stream: self._target(stream, retried) for stream in remaining},
                suspects,
                statement_timeout=self._statement_timeout,
                locks=lock_script(self._tables, remaining) if self._hard_delete else "",
                last_script=last_script,
            )
            try:
                committed = await retries.use(attempt.commit)
            except Suspected as suspected:
                obstacle = await self._rejected.make_usable()
                # Of several streams a split finds the one, even if its record cannot be kept.
                if not obstacle or len(suspected.streams) > 1:
                    suspects.split |= suspected.streams
                    suspects.deferred |= suspected.streams if suspected.at_commit else set()
                    continue
                # As long as none can be kept, one stream is given up at a time.
                stream = min(suspected.streams)
                reason = await retries.use(
                    partial(self._explain, suspected.error, stream, remaining)
                )
                refused[stream] = f"{reason}. {obstacle}"
                del remaining[stream]
            except StreamRefused as error:
                refused[error.stream] = error.reason
                del remaining[error.stream]
            except retry.StillFailing as failure:
                # A lock on one table, say, is no reason to keep the others waiting any longer.
                if not is_contention(failure.fault):
                    raise
                held_up = attempt.stream
                if held_up is None:
                    # A deferred constraint may have waited, and only a statement names its stream.
                    if remaining.keys() <= suspects.deferred:
                        raise
                    suspects.split |= remaining.keys()
                    suspects.deferred |= remaining.keys()
                    retries = self._retries()
                    continue
                refused[held_up] = f"table {self._tables[held_up].quoted}: {failure.message}"
                del remaining[held_up]
                retries = self._retries()
            else:
                counts = self._conclude(remaining, committed, time.perf_counter() - began)
                break
        return Outcome(counts=counts, refused=refused)

    def _retries(self) -> retry.Retries:
        return retry.Retries(self._pool, patience=retry.SYNC_PATIENCE)

    def _target(self, stream: str, retried: Retried | None) -> Target:
        return Target(
            table=self._tables[stream],
            hard_delete=self._hard_delete,
            statement=self._statement(stream),
            # Kept records are known to be refused; the table need not be wrong for it.
            limit=self._rejected.allowance(stream) if retried is None else None,
            retried=retried.get(stream, {}) if retried is not None else {},
            keeps_rejected=self._rejected.is_usable,
        )

    def _statement(self, stream: str) -> str:
        if not self._rejected.has_entries(stream):
            return self._statements[stream]
        if stream not in self._clearing_statements:
            self._clearing_statements[stream] = upsert_statement(
                self._tables[stream], hard_delete=self._hard_delete, clears_rejected=True
            )
        return self._clearing_statements[stream]

    async def _explain(
        self, error: asyncpg.PostgresError, stream: str, rows: Rows, connection: Connection
    ) -> str:
        return await explain(
            error,
            partial(transaction, connection, self._statement_timeout, keep=False),
            self._tables[stream],
            self._statements[stream],
            rows[stream],
        )

    def _conclude(
        self, rows: Rows, committed: Committed, seconds: float
    ) -> Mapping[str, RowCounts]:
        counts: dict[str, RowCounts] = {}
        for stream, changed in committed.changes.items():
            rejections = committed.rejections.get(stream, [])
            if rejections:
                self._rejected.note(stream, len(rejections))
                self._log_rejections(stream, rejections)
            received, rejected = len(rows[stream]), len(rejections)
            counts[stream] = RowCounts(
                **changed,
                unchanged=received - sum(changed.values()) - rejected,
                rejected=rejected,
            )
            log.info(
                "flush_committed",
                stream=stream,
                rows=received,
                **changed,
                unchanged=counts[stream].unchanged,
                **({"rejected": rejected} if rejected else {}),
                duration_ms=round(seconds * 1000, 1),
            )
        return counts

    def _log_rejections(self, stream: str, rejections: Sequence[Rejection]) -> None:
        first = rejections[0]
        log.warning(
            "records_rejected",
            stream=stream,
            count=len(rejections),
            first=describe_key(self._tables[stream], first.identity),
            sqlstate=first.sqlstate,
            reason=first.reason,
        )
