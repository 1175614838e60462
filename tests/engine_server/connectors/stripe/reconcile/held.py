"""Stored rows in memory that stand in for a destination's tables."""

from collections.abc import AsyncGenerator, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(kw_only=True)
class Held:
    """Stored documents.

    Attributes:
        documents: The documents by stream and id.
        asked: The queries so far: the stream and the bounds.
        accounts: The accounts of the queries.
        portion: The number of ids that it yields together.
    """

    documents: dict[str, dict[str, Mapping[str, Any]]] = field(default_factory=dict)
    asked: list[tuple[str, int | None, int | None]] = field(default_factory=list)
    accounts: set[str] = field(default_factory=set)
    portion: int = 5_000

    def hold(self, stream: str, documents: Iterable[Mapping[str, Any]]) -> None:
        """Add documents."""
        self.documents.setdefault(stream, {}).update((one["id"], one) for one in documents)

    def take(self, stream: str, record: Mapping[str, Any]) -> None:
        """Apply a record like a destination."""
        if record.get("deleted") is True:
            self.documents[stream].pop(record["id"], None)
        else:
            self.hold(stream, [record])

    async def created_in(
        self, stream: str, gte: int | None, lt: int | None, *, account_id: str = ""
    ) -> AsyncGenerator[Mapping[str, int | None], None]:
        """Yield small portions, like reading a large table."""
        self.asked.append((stream, gte, lt))
        self.accounts.add(account_id)
        found: list[tuple[int | None, str]] = [
            (document.get("created"), object_id)
            for object_id, document in self.documents.get(stream, {}).items()
            if (gte is None or document["created"] >= gte)
            and (lt is None or document["created"] < lt)
        ]
        if gte is not None or lt is not None:
            found.sort(reverse=True)
        for start in range(0, len(found), self.portion):
            yield {object_id: created for created, object_id in found[start : start + self.portion]}

    async def belonging_to(
        self, stream: str, field: str, owners: Collection[str], *, account_id: str = ""
    ) -> Collection[tuple[str, str]]:
        self.accounts.add(account_id)
        return [
            (document[field], object_id)
            for object_id, document in self.documents.get(stream, {}).items()
            if document[field] in owners
        ]

    async def update_times(
        self, stream: str, ids: Collection[str], *, account_id: str = ""
    ) -> Mapping[str, int]:
        held = self.documents.get(stream, {})
        return {one: held[one]["_updated_at"] for one in ids if "_updated_at" in held.get(one, {})}
