"""Rows on their way to a table: records that are taken apart, but not read."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from engine_server.connectors.postgres.keys import KeyReader
from engine_server.connectors.postgres.stamps import lift_stamps, with_stamps
from engine_server.connectors.postgres.unstorable import replaced, unstorable


@dataclass(slots=True)
class StreamRows:
    """The rows of one stream, in the order of arrival.

    Records are taken apart as they come, page by page, while the processor has them at hand.

    Attributes:
        objects: JSON objects in UTF-8, each but for its closing bracket and what was lifted of it.
        account_ids: The stamp ``_account_id`` of each; empty where it was not lifted.
        updated_ats: Its stamp ``_updated_at``, in words; the same.
        keys: The first column of their keys, as far as the records tell by their first bytes; None
            when one does not.
        are_changes: Whether some are as ``RecordBatch.are_changes`` says. It does no harm to the
            others: at the worst a row that is equal is written again, with its later time.
        replaced_count: How many records held characters that Postgres cannot hold.
        first_replaced: The first of them, as it is written; empty when there is none.
    """

    objects: list[bytes] = field(default_factory=list)
    account_ids: list[str] = field(default_factory=list)
    updated_ats: list[str] = field(default_factory=list)
    keys: set[bytes] | None = field(default_factory=set)
    are_changes: bool = False
    replaced_count: int = 0
    first_replaced: bytes = b""

    def __len__(self) -> int:
        """How many there are."""
        return len(self.objects)

    def add(self, records: Sequence[bytes], key_reader: KeyReader | None = None) -> None:
        """Adds records: a JSON object in UTF-8 each. Without a reader they tell nothing of keys.

        In place of what Postgres cannot hold they get U+FFFD.
        """
        if places := unstorable(records):
            storable = list(records)
            for place in places:
                storable[place] = replaced(records[place])
            self.first_replaced = self.first_replaced or storable[places[0]]
            self.replaced_count += len(places)
            records = storable
        objects, account_ids, updated_ats = lift_stamps(records)
        self.objects += objects
        self.account_ids += account_ids
        self.updated_ats += updated_ats
        keys = key_reader.read(records) if key_reader is not None else None
        if self.keys is None or keys is None:
            self.keys = None
        else:
            self.keys |= keys

    def picked(self, places: Iterable[int]) -> "StreamRows":
        """The rows at these places, in this order."""
        places = list(places)
        return StreamRows(
            objects=[self.objects[place] for place in places],
            account_ids=[self.account_ids[place] for place in places],
            updated_ats=[self.updated_ats[place] for place in places],
            keys=None,
            are_changes=self.are_changes,
        )

    def record(self, place: int) -> bytes:
        """One of the records, put together again."""
        return with_stamps(self.objects[place], self.account_ids[place], self.updated_ats[place])


# By stream.
Rows: TypeAlias = Mapping[str, StreamRows]


def may_share_a_row(one: Rows, other: Rows) -> bool:
    """Whether a row may be in both: not if the first columns of the keys differ."""
    return any(_meet(one[stream].keys, other[stream].keys) for stream in one.keys() & other.keys())


def _meet(one: set[bytes] | None, other: set[bytes] | None) -> bool:
    return one is None or other is None or not one.isdisjoint(other)
