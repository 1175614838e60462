"""Writer of batches of rows: retries transient errors and keeps refused records apart."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial

import asyncpg
import structlog

from engine_server.connectors.postgres.connection import retry
from engine_server.connectors.postgres.connection.errors import is_contention
from engine_server.connectors.postgres.connection.pool import Connection, Pool
from engine_server.connectors.postgres.connection.transaction import transaction
from engine_server.connectors.postgres.rejection.refusal import explain
from engine_server.connectors.postgres.rejection.rejection import Rejection, describe_key, identify
from engine_server.connectors.postgres.rejection.rejection_tracker import RejectionTracker
from engine_server.connectors.postgres.rejection.splitter import TableRefused
from engine_server.connectors.postgres.rows.keys import KeyReader
from engine_server.connectors.postgres.rows.row import Rows, may_share_a_row
from engine_server.connectors.postgres.rows.row_locks import lock_script, may_wait_for_each_other
from engine_server.connectors.postgres.rows.upsert import upsert_statement
from engine_server.connectors.postgres.schema.tables import Table
from engine_server.connectors.postgres.write.attempt import (
    Attempt,
    AttemptResult,
    Suspected,
    Suspects,
    Target,
)
from engine_server.errors import ConnectorError
from pipesync.v1.progress_pb2 import RowCounts

_log = structlog.get_logger(__name__)

# By stream, the digest of each kept record that is retried, and the time of its last refusal.
Retried = Mapping[str, Mapping[bytes, datetime]]


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitOutcome:
    """Outcome of one commit.

    Attributes:
        counts: The row counts of each stream that was written.
        refused: The reason for each stream that was not.
    """

    counts: Mapping[str, RowCounts]
    refused: Mapping[str, str]

    @property
    def filled(self) -> set[str]:
        """The streams whose tables have rows now."""
        return {name for name, rows in self.counts.items() if rows.inserted or rows.updated}


class Writer:
    """Writes the rows of several streams in one transaction.

    Attributes:
        key_readers: The key reader of each stream.
    """

    def __init__(
        self,
        pool: Pool,
        tables: Sequence[Table],
        rejected: RejectionTracker,
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
        # Created on demand.
        self._clearing_statements: dict[str, str] = {}

    def must_follow(self, former: Rows, latter: Rows) -> bool:
        """Return whether the latter rows may be committed only after the former are."""
        return may_share_a_row(former, latter) or (
            self._hard_delete and may_wait_for_each_other(self._tables, former, latter)
        )

    def key_of(self, stream: str, record: bytes) -> str:
        """Return the key of a record as text for a log."""
        table = self._tables[stream]
        return describe_key(table, identify(table, record))

    async def commit(
        self,
        rows: Rows,
        retried: Retried | None = None,
        last_script: Callable[[Collection[str]], str] | None = None,
    ) -> CommitOutcome:
        """Commit all rows except those of refused streams, and keep refused records apart.

        Writes are idempotent, so a commit with an unknown outcome is repeated. Had it succeeded,
        its rows count as unchanged.

        Args:
            rows: The rows by stream.
            retried: The kept records that the rows come from; None when they come from a source.
            last_script: Returns SQL to commit with, given the streams that are written, also when
                there are none.

        Raises:
            CheckpointsMoved: Another request changed the entries that ``last_script`` moves.
            ConnectionFailed: Postgres was unreachable for a minute, or refused the session.
            ConnectorError: Postgres cannot continue, e.g. because its disk is full; or the rows are
                of a stream without a table.
        """
        if unknown := sorted(rows.keys() - self._tables.keys()):
            raise ConnectorError(f"records came of streams that are not written: {unknown}")
        # In one order, so that two transactions cannot deadlock.
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
                # A split finds the stream, even if its record cannot be kept.
                if not obstacle or len(suspected.streams) > 1:
                    suspects.split |= suspected.streams
                    suspects.deferred |= suspected.streams if suspected.at_commit else set()
                    continue
                # While no record can be kept, one stream fails at a time.
                stream = min(suspected.streams)
                reason = await retries.use(
                    partial(self._explain, suspected.error, stream, remaining)
                )
                refused[stream] = f"{reason}. {obstacle}"
                del remaining[stream]
            except TableRefused as error:
                refused[error.stream] = error.reason
                del remaining[error.stream]
            except retry.RetriesExhausted as failure:
                # A lock on one table need not keep the other streams waiting.
                if not is_contention(failure.error):
                    raise
                held_up = attempt.stream
                if held_up is None:
                    # A deferred constraint may have waited; only a statement names its stream.
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
        return CommitOutcome(counts=counts, refused=refused)

    def _retries(self) -> retry.Retries:
        return retry.Retries(self._pool, timeout=retry.SYNC_TIMEOUT)

    def _target(self, stream: str, retried: Retried | None) -> Target:
        return Target(
            table=self._tables[stream],
            hard_delete=self._hard_delete,
            statement=self._statement(stream),
            # Kept records were refused before, so their number says nothing about the table.
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
        self, rows: Rows, committed: AttemptResult, seconds: float
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
            _log.info(
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
        _log.warning(
            "records_rejected",
            stream=stream,
            count=len(rejections),
            first=describe_key(self._tables[stream], first.identity),
            sqlstate=first.sqlstate,
            reason=first.reason,
        )
