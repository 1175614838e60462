"""Splitting of a batch into the records that Postgres refuses and those that it accepts."""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence

import asyncpg

from engine_server.connectors.postgres.connection.errors import (
    describe,
    is_refusal,
    lies_in_a_record,
    only_row,
)
from engine_server.connectors.postgres.connection.transaction import Transaction
from engine_server.connectors.postgres.rejection.rejection import (
    Rejection,
    describe_key,
    identify,
    reject,
)
from engine_server.connectors.postgres.rows.keys import KeyReader
from engine_server.connectors.postgres.rows.row import StreamRows
from engine_server.connectors.postgres.rows.upsert import upsert_arguments
from engine_server.connectors.postgres.schema.tables import ACCOUNT_ID, Table

# When all records of at least this many rows are refused, the table is wrong, and not the records.
_FEWEST_TO_BLAME_THE_TABLE = 20
# The same when more records than this are refused within one run.
MOST_REJECTIONS = 1000
# A row may be refused until a later part of the batch writes another row: one that it refers to, or
# one that frees a unique value.
_ORDER_VIOLATIONS = frozenset({"23503", "23505", "23P01"})

_SAVE = "SAVEPOINT pipesync_part"
_KEEP = f"RELEASE {_SAVE}"
_UNDO = f"ROLLBACK TO {_SAVE}"


class TableRefused(Exception):
    """Postgres refuses a stream for a reason that does not lie in single records.

    Attributes:
        stream: The stream.
        reason: The reason, as a sentence for users.
    """

    def __init__(self, stream: str, reason: str) -> None:
        super().__init__(reason)
        self.stream = stream
        self.reason = reason


class Splitter:
    """Writes the records of one stream's batch that Postgres accepts.

    The batch is bisected down to each refused record, with a savepoint before each part. One
    refused record of 5,000 takes about 14 statements, which together write each row at most twice;
    a thousand of them take at most 6,000. Released savepoints count as subtransactions until the
    commit. Postgres caches the first 64; beyond that, other sessions look them up on disk, which
    only slows them down.

    Records of one row stay together, because only the newest of them counts.

    Attributes:
        changes: The numbers of inserted, updated and deleted rows.
        rejections: By digest, the latest refused record that no written record outdates.
    """

    def __init__(
        self,
        begun: Transaction,
        table: Table,
        statement: str,
        rows: StreamRows,
        *,
        limit: int | None,
    ) -> None:
        """Take the batch.

        Args:
            begun: The transaction.
            table: The table.
            statement: SQL that writes the rows.
            rows: At least one row.
            limit: The number of refused rows beyond which the table counts as wrong; None for any
                number.
        """
        self._begun = begun
        self._table = table
        self._statement = statement
        self._rows = rows
        self._limit = limit
        self._key_reader = KeyReader(table)
        # The rows of one object may differ only in their accounts.
        self._is_told_by_first = all(column.name == ACCOUNT_ID for column in table.key[1:])
        self._refused: dict[int, Rejection] = {}
        self._rejected_rows: set[bytes] = set()
        self.changes: Counter[str] = Counter()

    @property
    def rejections(self) -> Mapping[bytes, Rejection]:
        """The latest rejections; see the attributes."""
        latest: dict[bytes, Rejection] = {}
        for _, rejection in sorted(self._refused.items()):
            known = latest.get(rejection.identity.digest)
            if known is None or rejection.identity.outdates(known.identity):
                latest[rejection.identity.digest] = rejection
        return latest

    async def write(self) -> None:
        """Write the acceptable records of a batch that Postgres refused as a whole.

        Raises:
            TableRefused: The reason does not lie in single records.
        """
        await self._begun.execute(_SAVE)
        await self._write(self._by_row(range(len(self._rows))), is_refused=True)
        await self._begun.execute(_KEEP)

    async def write_orphans(self, *, backwards: bool) -> bool:
        """Retry the records that may have been refused because of their order.

        Args:
            backwards: Whether the last of them comes first.

        Returns:
            Whether Postgres accepted one.

        Raises:
            TableRefused: The reason does not lie in single records.
        """
        orphans = sorted(
            index
            for index, rejection in self._refused.items()
            if rejection.sqlstate in _ORDER_VIOLATIONS
        )
        if not orphans:
            return False
        for index in orphans:
            del self._refused[index]
        groups = self._by_row(orphans)
        await self._begun.execute(_SAVE)
        await self._write(groups[::-1] if backwards else groups, is_refused=False)
        await self._begun.execute(_KEEP)
        written = [index for index in orphans if index not in self._refused]
        for index in written:
            self._drop_outdated(index, list(self._refused))
        return bool(written)

    def blame_table_if_all_are_refused(self) -> None:
        """Raise TableRefused when all records were refused, and they are of many rows."""
        count = len(self._rows)
        if self._limit is None or len(self._refused) < count:
            return
        if len(self._rejected_rows) >= _FEWEST_TO_BLAME_THE_TABLE:
            self._blame_table(f"all {count} records of a batch")

    async def _write(self, groups: Sequence[Sequence[int]], *, is_refused: bool) -> bool:
        """Write groups of records of one row, and return whether Postgres accepted all at once.

        Args:
            groups: The indexes of the records in the batch.
            is_refused: Whether Postgres is known to refuse them as a whole.
        """
        if not groups:
            return True
        if len(groups) == 1:
            return await self._write_row(groups[0])
        if not is_refused and await self._try([at for group in groups for at in group]) is None:
            return True
        middle = len(groups) // 2
        # If the first half is accepted, the cause is in the other.
        is_in_latter = await self._write(groups[:middle], is_refused=False)
        await self._write(groups[middle:], is_refused=is_in_latter)
        return False

    async def _write_row(self, indexes: Sequence[int]) -> bool:
        error = await self._try(indexes)
        if error is None:
            return True
        if len(indexes) == 1:
            self._reject(indexes[0], error)
            return False
        # An older record of the row may be the refused one.
        for index in indexes:
            error = await self._try([index])
            if error is not None:
                self._reject(index, error)
                continue
            self._drop_outdated(index, indexes)
        return False

    def _drop_outdated(self, written_index: int, indexes: Sequence[int]) -> None:
        """Drop rejections at these indexes that the record at ``written_index`` outdates."""
        written = identify(self._table, self._rows.record(written_index))
        for index in indexes:
            rejected = self._refused.get(index)
            if (
                rejected is not None
                and rejected.identity.digest == written.digest
                and (index < written_index or not rejected.identity.outdates(written))
                and written.outdates(rejected.identity)
            ):
                del self._refused[index]

    async def _try(self, indexes: Sequence[int]) -> asyncpg.PostgresError | None:
        """Write these records, or write none and return the error."""
        arguments = upsert_arguments(self._rows.select(indexes))
        try:
            changes = only_row(await self._begun.fetch(self._statement, *arguments))
        except asyncpg.PostgresError as error:
            if not is_refusal(error):
                raise
            if not lies_in_a_record(error):
                raise TableRefused(
                    self._table.stream,
                    f"Postgres refused to write to table {self._table.quoted}: "
                    f"{describe(error, self._table.names)}",
                ) from error
            await self._begun.execute(_UNDO)
            return error
        await self._begun.execute(f"{_KEEP}; {_SAVE}")
        self.changes.update(dict(changes))
        return None

    def _reject(self, index: int, error: asyncpg.PostgresError) -> None:
        rejection = reject(self._table, self._rows.record(index), error)
        self._refused[index] = rejection
        # Rows count, not records: one object may arrive many times.
        self._rejected_rows.add(rejection.identity.digest)
        if self._limit is not None and len(self._rejected_rows) > self._limit:
            self._blame_table(f"more than {MOST_REJECTIONS:,} records in one run")

    def _blame_table(self, which: str) -> None:
        last = self._refused[max(self._refused)]
        raise TableRefused(
            self._table.stream,
            f"Postgres refused {which} of {self._table.stream}, so table {self._table.quoted} "
            f"itself seems wrong. One of them ({describe_key(self._table, last.identity)}): "
            f"{last.reason}",
        )

    def _by_row(self, indexes: Sequence[int]) -> Sequence[Sequence[int]]:
        """Return the indexes grouped by row, in the order of arrival."""
        rows: dict[Hashable, list[int]] = {}
        for index in indexes:
            rows.setdefault(self._row(index), []).append(index)
        return list(rows.values())

    def _row(self, index: int) -> Hashable:
        record = self._rows.record(index)
        # Parsing a batch takes longer than writing it.
        first = self._key_reader.read_one(record) if self._is_told_by_first else None
        if first is not None:
            return first
        key = identify(self._table, record).key
        if key is None or None in key:
            # Its row is unknown.
            return index
        return (key[0] or "").encode() if self._is_told_by_first else key
