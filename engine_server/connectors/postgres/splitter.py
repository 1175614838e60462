"""Finds the records of a batch that Postgres refuses, and writes the others, in one transaction."""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence

import asyncpg

from engine_server.connectors.postgres.faults import describe, is_refusal, lies_in_a_record
from engine_server.connectors.postgres.keys import KeyReader
from engine_server.connectors.postgres.rejection import (
    Rejection,
    describe_key,
    identify,
    reject,
)
from engine_server.connectors.postgres.rows import StreamRows
from engine_server.connectors.postgres.tables import ACCOUNT_ID, Table
from engine_server.connectors.postgres.transaction import Transaction
from engine_server.connectors.postgres.upsert import upsert_arguments

# When the records of so many rows are all refused, the table is wrong, and not the records.
_FEWEST_TO_BLAME_THE_TABLE = 20
# The same where more are within one run.
MOST_REJECTIONS = 1000
# A row may be refused until a later part of the batch writes another: the one that it refers to, or
# one that gives up a value which no two rows may have.
_ORDER_VIOLATIONS = frozenset({"23503", "23505", "23P01"})

_SAVE = "SAVEPOINT pipesync_part"
_KEEP = f"RELEASE {_SAVE}"
_UNDO = f"ROLLBACK TO {_SAVE}"


class StreamRefused(Exception):
    """Postgres does not take a stream, for a reason that does not lie in single records.

    Attributes:
        stream: The stream.
        reason: Why, for a person.
    """

    def __init__(self, stream: str, reason: str) -> None:
        super().__init__(reason)
        self.stream = stream
        self.reason = reason


class Splitter:
    """Writes what Postgres takes of one stream's batch.

    The batch is halved until each refused record is alone, each part behind a savepoint: one bad
    record of 5,000 takes about 14 statements, which together write each row at most twice; a
    thousand of them take at most 6,000. Released savepoints count as subtransactions until the
    commit: Postgres keeps the first 64 at hand, and beyond that others look them up on disk, which
    slows them down and harms nothing.

    Records of one row stay together, for only the newest of them counts.

    Attributes:
        changes: Inserted, updated and deleted rows.
        rejections: What was refused and is not outdated by what was written; the latest by digest.
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
        """Takes the batch.

        Args:
            begun: The transaction.
            table: Where the rows go.
            statement: What writes them.
            rows: At least one.
            limit: How many records may be refused before the table counts as wrong; None when it
                never does.
        """
        self._begun = begun
        self._table = table
        self._statement = statement
        self._rows = rows
        self._limit = limit
        self._key_reader = KeyReader(table)
        # The rows of one object differ by their accounts at most.
        self._is_told_by_first = all(column.name == ACCOUNT_ID for column in table.key[1:])
        self._refused: dict[int, Rejection] = {}
        self._rejected_rows: set[bytes] = set()
        self.changes: Counter[str] = Counter()

    @property
    def rejections(self) -> Mapping[bytes, Rejection]:
        """See the attributes."""
        latest: dict[bytes, Rejection] = {}
        for _, rejection in sorted(self._refused.items()):
            known = latest.get(rejection.identity.digest)
            if known is None or rejection.identity.outdates(known.identity):
                latest[rejection.identity.digest] = rejection
        return latest

    async def write(self) -> None:
        """Writes what Postgres takes of a batch that it refused as a whole.

        Raises:
            StreamRefused: The reason does not lie in single records.
        """
        await self._begun.execute(_SAVE)
        await self._write(self._by_row(range(len(self._rows))), is_refused=True)
        await self._begun.execute(_KEEP)

    async def write_orphans(self, *, backwards: bool) -> bool:
        """Tries again the records that may have been refused for their place in the order.

        Args:
            backwards: Whether the last of them comes first.

        Returns:
            Whether Postgres took one.

        Raises:
            StreamRefused: The reason does not lie in single records.
        """
        orphans = sorted(
            place
            for place, rejection in self._refused.items()
            if rejection.sqlstate in _ORDER_VIOLATIONS
        )
        if not orphans:
            return False
        for place in orphans:
            del self._refused[place]
        groups = self._by_row(orphans)
        await self._begun.execute(_SAVE)
        await self._write(groups[::-1] if backwards else groups, is_refused=False)
        await self._begun.execute(_KEEP)
        written = [place for place in orphans if place not in self._refused]
        for place in written:
            self._drop_outdated(place, list(self._refused))
        return bool(written)

    def blame_table_if_all_are_refused(self) -> None:
        """Raise StreamRefused when none of many records was taken, and they are of many rows."""
        count = len(self._rows)
        if self._limit is None or len(self._refused) < count:
            return
        if len(self._rejected_rows) >= _FEWEST_TO_BLAME_THE_TABLE:
            self._blame_table(f"all {count} records of a batch")

    async def _write(self, groups: Sequence[Sequence[int]], *, is_refused: bool) -> bool:
        """Writes groups of records of one row; whether Postgres took all of them at once.

        Args:
            groups: The places of the records in the batch.
            is_refused: Whether it is known that it does not.
        """
        if not groups:
            return True
        if len(groups) == 1:
            return await self._write_row(groups[0])
        if not is_refused and await self._try([at for group in groups for at in group]) is None:
            return True
        middle = len(groups) // 2
        # What is wrong with the whole is in the other half, then.
        is_in_latter = await self._write(groups[:middle], is_refused=False)
        await self._write(groups[middle:], is_refused=is_in_latter)
        return False

    async def _write_row(self, places: Sequence[int]) -> bool:
        error = await self._try(places)
        if error is None:
            return True
        if len(places) == 1:
            self._reject(places[0], error)
            return False
        # An older one of them may be what is refused.
        for place in places:
            error = await self._try([place])
            if error is not None:
                self._reject(place, error)
                continue
            self._drop_outdated(place, places)
        return False

    def _drop_outdated(self, written_place: int, places: Sequence[int]) -> None:
        """Forgets the refusals of these places that the record at ``written_place`` outdates."""
        written = identify(self._table, self._rows.record(written_place))
        for place in places:
            rejected = self._refused.get(place)
            if (
                rejected is not None
                and rejected.identity.digest == written.digest
                and (place < written_place or not rejected.identity.outdates(written))
                and written.outdates(rejected.identity)
            ):
                del self._refused[place]

    async def _try(self, places: Sequence[int]) -> asyncpg.PostgresError | None:
        """Writes these records, or none of them and says why."""
        arguments = upsert_arguments(self._rows.picked(places))
        try:
            [changes] = await self._begun.fetch(self._statement, *arguments)
        except asyncpg.PostgresError as error:
            if not is_refusal(error):
                raise
            if not lies_in_a_record(error):
                raise StreamRefused(
                    self._table.stream,
                    f"Postgres refused to write to table {self._table.quoted}: "
                    f"{describe(error, self._table.names)}",
                ) from error
            await self._begun.execute(_UNDO)
            return error
        await self._begun.execute(f"{_KEEP}; {_SAVE}")
        self.changes.update(dict(changes))
        return None

    def _reject(self, place: int, error: asyncpg.PostgresError) -> None:
        rejection = reject(self._table, self._rows.record(place), error)
        self._refused[place] = rejection
        # One object may come often: it is the rows that speak against their table.
        self._rejected_rows.add(rejection.identity.digest)
        if self._limit is not None and len(self._rejected_rows) > self._limit:
            self._blame_table(f"more than {MOST_REJECTIONS:,} records in one run")

    def _blame_table(self, which: str) -> None:
        last = self._refused[max(self._refused)]
        raise StreamRefused(
            self._table.stream,
            f"Postgres refused {which} of {self._table.stream}, so table {self._table.quoted} "
            f"itself seems wrong. One of them ({describe_key(self._table, last.identity)}): "
            f"{last.reason}",
        )

    def _by_row(self, places: Sequence[int]) -> Sequence[Sequence[int]]:
        """The places of records of one row together, in the order of arrival."""
        rows: dict[Hashable, list[int]] = {}
        for place in places:
            rows.setdefault(self._row(place), []).append(place)
        return list(rows.values())

    def _row(self, place: int) -> Hashable:
        record = self._rows.record(place)
        # To parse a batch takes longer than to write it.
        first = self._key_reader.read_one(record) if self._is_told_by_first else None
        if first is not None:
            return first
        key = identify(self._table, record).key
        if key is None or None in key:
            # Nothing tells which row it is of.
            return place
        return (key[0] or "").encode() if self._is_told_by_first else key
