"""A transaction that writes batches of several streams and keeps the refused records."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import asyncpg

from engine_server.connectors.postgres.checkpoints.moves import is_about_checkpoints
from engine_server.connectors.postgres.connection.errors import (
    describe,
    is_refusal,
    lies_in_a_record,
    only_row,
)
from engine_server.connectors.postgres.connection.pool import Connection
from engine_server.connectors.postgres.connection.transaction import Transaction, transaction
from engine_server.connectors.postgres.rejection.rejection import (
    Rejection,
    kept_arguments,
    without_untranslatable_key,
)
from engine_server.connectors.postgres.rejection.splitter import Splitter, TableRefused
from engine_server.connectors.postgres.rows.row import Rows
from engine_server.connectors.postgres.rows.upsert import upsert_arguments, upsert_statement
from engine_server.connectors.postgres.schema import own_key, rejected_table, tombstones
from engine_server.connectors.postgres.schema.arrays import text_array
from engine_server.connectors.postgres.schema.tables import Table
from engine_server.errors import CheckpointsMoved

# Has deferred constraints checked by the statement that violates them, not by the commit.
_BLAME_STATEMENTS = "SET CONSTRAINTS ALL IMMEDIATE"

# Each round takes up to as many statements as the search for the refused records.
_MOST_ROUNDS = 5


class Suspected(Exception):
    """Postgres refused a record of one of ``streams``, and the transaction was rolled back.

    Attributes:
        error: The error of Postgres.
        streams: The streams.
        at_commit: Whether all statements succeeded, and a deferred constraint was violated.
    """

    def __init__(
        self, error: asyncpg.PostgresError, streams: frozenset[str], *, at_commit: bool
    ) -> None:
        super().__init__(", ".join(sorted(streams)))
        self.error = error
        self.streams = streams
        self.at_commit = at_commit


@dataclass(slots=True)
class Suspects:
    """The streams whose batches hold records that Postgres refuses.

    Attributes:
        split: All of them: their batches are split.
        deferred: Those that only the commit refused. They are written last, and deferred
            constraints are checked for each part: it may refer to rows of other batches.
    """

    split: set[str] = field(default_factory=set)
    deferred: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Statements and limits for the rows of one stream.

    Attributes:
        table: The table.
        hard_delete: Whether deleted rows are removed.
        statement: SQL that writes a batch that Postgres accepts as a whole.
        limit: The number of records that may be refused; None for any number.
        retried: The kept records in the batch, by digest, each with its last_time.
        keeps_rejected: Whether our role may use the table of rejected records.
    """

    table: Table
    hard_delete: bool
    statement: str
    limit: int | None = None
    retried: Mapping[bytes, datetime] = field(default_factory=dict)
    keeps_rejected: bool = True

    @property
    def splitting_statement(self) -> str:
        """SQL that writes a part of a batch that Postgres refused as a whole."""
        return upsert_statement(
            self.table, hard_delete=self.hard_delete, clears_rejected=self.keeps_rejected
        )

    @property
    def kept_statement(self) -> str:
        """SQL that keeps refused records."""
        return rejected_table.kept_statement(self.table, hard_delete=self.hard_delete)

    def describe(self, error: asyncpg.PostgresError) -> str:
        """Return an error in one line, with the names of the table."""
        written = [self.table.quoted]
        if self.hard_delete and tombstones.are_kept(self.table):
            written.append(tombstones.quoted(self.table.schema))
        return describe(error, self.table.names) + own_key.missing_at(error, written)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptResult:
    """Changes that a transaction committed.

    Attributes:
        changes: By stream, the numbers of inserted, updated and deleted rows.
        rejections: By stream, the refused records that were kept, if any.
    """

    changes: Mapping[str, Mapping[str, int]]
    rejections: Mapping[str, Sequence[Rejection]]


class Attempt:
    """One try to commit batches.

    Args:
        rows: The batches, in the order in which they are written.
        targets: How each stream is written.
        suspects: The streams that are split.
        statement_timeout: Seconds that each statement may take.
        locks: SQL that takes the locks of ``row_locks``; empty where none are needed.
        last_script: Returns SQL to commit with, given the streams that are written; None for none.
    """

    def __init__(
        self,
        rows: Rows,
        targets: Mapping[str, Target],
        suspects: Suspects,
        *,
        statement_timeout: float,
        locks: str = "",
        last_script: Callable[[Collection[str]], str] | None = None,
    ) -> None:
        self._rows = rows
        self._targets = targets
        self._suspects = suspects
        self._statement_timeout = statement_timeout
        self._locks = locks
        self._last_script = last_script
        # The stream whose statement runs; None at the end.
        self._stream: str | None = None
        self._is_ending = False

    @property
    def stream(self) -> str | None:
        """The stream whose statement ended the last try; None when no single one did."""
        return self._stream

    async def commit(self, connection: Connection) -> AttemptResult:
        """Commit the rows that Postgres accepts.

        Raises:
            Suspected: A batch that is not split yet holds a record that Postgres refuses.
            TableRefused: Postgres refuses a stream because of its table.
            CheckpointsMoved: Another request changed the entries that ``last_script`` moves.
            asyncpg.PostgresError: Any other error.
        """
        self._stream = None
        try:
            async with transaction(
                connection, self._statement_timeout, opening=self._locks
            ) as begun:
                return await self._write(begun)
        except asyncpg.PostgresError as error:
            if self._is_ending and is_about_checkpoints(error):
                raise CheckpointsMoved(
                    "another request took over where this one goes on, or its recorded checkpoints "
                    "were removed, or a table was emptied or made anew: sync again"
                ) from error
            if not is_refusal(error):
                raise
            raise self._verdict(error) from error

    async def _write(self, begun: Transaction) -> AttemptResult:
        changes: dict[str, Mapping[str, int]] = {}
        splitters: dict[str, Splitter] = {}
        deferred = [stream for stream in self._rows if stream in self._suspects.deferred]
        for stream in [*(stream for stream in self._rows if stream not in deferred), *deferred]:
            if deferred and stream == deferred[0]:
                self._stream = None
                await begun.execute(_BLAME_STATEMENTS)
            self._stream = stream
            target, rows = self._targets[stream], self._rows[stream]
            if stream not in self._suspects.split:
                changed = only_row(await begun.fetch(target.statement, *upsert_arguments(rows)))
                changes[stream] = dict(changed)
                continue
            splitter = Splitter(
                begun, target.table, target.splitting_statement, rows, limit=target.limit
            )
            splitters[stream] = splitter
            await splitter.write()
        await self._write_orphans(splitters)
        rejections: dict[str, Sequence[Rejection]] = {}
        for stream, splitter in splitters.items():
            self._stream = stream
            splitter.blame_table_if_all_are_refused()
            changes[stream] = splitter.changes
            if splitter.rejections:
                rejections[stream] = await self._keep(begun, stream, splitter.rejections)
        for stream, target in self._targets.items():
            if target.retried and stream in self._rows:
                await begun.fetch(
                    rejected_table.done_statement(target.table.schema),
                    stream,
                    text_array(target.retried),
                    text_array(target.retried.values()),
                )
        self._stream = None
        if self._last_script is not None:
            self._is_ending = True
            begun.last_script = self._last_script(self._rows.keys())
        return AttemptResult(changes=changes, rejections=rejections)

    async def _write_orphans(self, splitters: Mapping[str, Splitter]) -> None:
        """Retry records that wait for other rows, also of other streams, while one succeeds."""
        for round_number in range(_MOST_ROUNDS):
            has_progress = False
            for stream, splitter in splitters.items():
                self._stream = stream
                # Rows mostly depend on each other in one direction.
                has_progress |= await splitter.write_orphans(backwards=round_number % 2 == 1)
            if not has_progress:
                return

    async def _keep(
        self, begun: Transaction, stream: str, rejections: Mapping[bytes, Rejection]
    ) -> Sequence[Rejection]:
        target = self._targets[stream]
        try:
            kept = await self._kept(begun, target.kept_statement, rejections.values())
        except asyncpg.PostgresError as error:
            if not is_refusal(error):
                raise
            name = rejected_table.quoted(target.table.schema)
            raise TableRefused(
                stream,
                f"Postgres refused records of {stream}, and to keep them in {name}: "
                f"{describe(error)}. Run setup, and grant SELECT, INSERT, UPDATE, DELETE on it",
            ) from error
        return [rejections[row["digest"]] for row in kept]

    async def _kept(
        self, begun: Transaction, statement: str, rejections: Collection[Rejection]
    ) -> Sequence[asyncpg.Record]:
        await begun.execute("SAVEPOINT pipesync_kept")
        try:
            return await begun.fetch(statement, *kept_arguments(rejections))
        except asyncpg.UntranslatableCharacterError:
            await begun.execute("ROLLBACK TO pipesync_kept")
            rest = [without_untranslatable_key(rejection) for rejection in rejections]
            return await begun.fetch(statement, *kept_arguments(rest))

    def _verdict(self, error: asyncpg.PostgresError) -> Suspected | TableRefused:
        """Return the exception for a refusal that ended the transaction."""
        at_commit = self._stream is None
        streams = frozenset([self._stream]) if self._stream is not None else self._deferred(error)
        known = self._suspects.deferred if at_commit else self._suspects.split
        # A failed commit may not name its stream, even if the table is the cause.
        if not streams <= known and (lies_in_a_record(error) or len(streams) > 1):
            return Suspected(error, streams, at_commit=at_commit)
        stream = min(streams)
        table = self._targets[stream].table.quoted
        return TableRefused(
            stream,
            f"Postgres refused to write to table {table}: {self._targets[stream].describe(error)}",
        )

    def _deferred(self, error: asyncpg.PostgresError) -> frozenset[str]:
        """Return the streams that may have violated a deferred constraint."""
        for stream in self._rows:
            table = self._targets[stream].table
            if (table.schema, table.name) == (error.schema_name, error.table_name):
                return frozenset([stream])
        return frozenset(self._rows)
