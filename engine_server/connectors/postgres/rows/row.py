"""Rows to write to a table: records that are split, but not parsed."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from engine_server.connectors.postgres.rows.keys import KeyReader
from engine_server.connectors.postgres.rows.metadata import extract_metadata, with_metadata
from engine_server.connectors.postgres.rows.unstorable import find_unstorable, replace_unstorable


@dataclass(slots=True)
class StreamRows:
    """The rows of one stream, in the order of arrival.

    Records are split page by page on arrival, while they are in the processor's cache.

    Attributes:
        objects: JSON objects in UTF-8, each without its closing bracket and extracted metadata.
        account_ids: The ``_account_id`` of each; empty where it was not extracted.
        updated_ats: The ``_updated_at`` of each, as text; empty where it was not extracted.
        keys: The first key columns of the records; None when one of them cannot be read from the
            first bytes of its record.
        are_change_events: Whether some of the records are, see ``RecordBatch``. For the others, the
            only effect is that an equal row may be written again, with its later time.
        replaced_count: The number of records with characters that Postgres cannot store.
        first_replaced: The first of them, as it is written; empty when there is none.
    """

    objects: list[bytes] = field(default_factory=list)
    account_ids: list[str] = field(default_factory=list)
    updated_ats: list[str] = field(default_factory=list)
    keys: set[bytes] | None = field(default_factory=set)
    are_change_events: bool = False
    replaced_count: int = 0
    first_replaced: bytes = b""

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.objects)

    def add(self, records: Sequence[bytes], key_reader: KeyReader | None = None) -> None:
        """Add records, and replace characters that Postgres cannot store by U+FFFD.

        Args:
            records: JSON objects in UTF-8.
            key_reader: Reads their keys; without it, the keys of all rows count as unknown.
        """
        if indexes := find_unstorable(records):
            storable = list(records)
            for index in indexes:
                storable[index] = replace_unstorable(records[index])
            self.first_replaced = self.first_replaced or storable[indexes[0]]
            self.replaced_count += len(indexes)
            records = storable
        objects, account_ids, updated_ats = extract_metadata(records)
        self.objects += objects
        self.account_ids += account_ids
        self.updated_ats += updated_ats
        keys = key_reader.read(records) if key_reader is not None else None
        if self.keys is None or keys is None:
            self.keys = None
        else:
            self.keys |= keys

    def select(self, indexes: Iterable[int]) -> "StreamRows":
        """Return the rows at these indexes, in this order."""
        indexes = list(indexes)
        return StreamRows(
            objects=[self.objects[index] for index in indexes],
            account_ids=[self.account_ids[index] for index in indexes],
            updated_ats=[self.updated_ats[index] for index in indexes],
            keys=None,
            are_change_events=self.are_change_events,
        )

    def record(self, index: int) -> bytes:
        """Return the record at this index, with its metadata."""
        return with_metadata(self.objects[index], self.account_ids[index], self.updated_ats[index])


# By stream.
Rows: TypeAlias = Mapping[str, StreamRows]


def may_share_a_row(one: Rows, other: Rows) -> bool:
    """Return whether a row may be in both: not when the first key columns differ."""
    return any(_meet(one[stream].keys, other[stream].keys) for stream in one.keys() & other.keys())


def _meet(one: set[bytes] | None, other: set[bytes] | None) -> bool:
    return one is None or other is None or not one.isdisjoint(other)
