"""Objects of one list, kept in order so that a page costs no more than its own size."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from engine_server import exact_json

# Creation second, then insertion number: the sort key of lists.
Key = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredObject:
    """One object, encoded once.

    Attributes:
        id: Id, unique in its list.
        key: Sort key.
        listed: Whether a list shows it without the parameter that asks for all objects.
        body: JSON of the object.
    """

    id: str
    key: Key
    listed: bool
    body: bytes


def encoded(value: Any) -> bytes:
    """Return a value's JSON, in no more memory than its bytes need."""
    # Even a small result of orjson holds on to a buffer of eight kilobytes.
    return bytes(memoryview(exact_json.encode(value)))


class ObjectOrder:
    """Objects in ascending order of their keys."""

    def __init__(self) -> None:
        self.keys: list[Key] = []
        self.objects: list[StoredObject] = []

    def insert(self, item: StoredObject) -> None:
        """Insert an object in order; the usual case, the newest object, is cheap."""
        index = bisect_left(self.keys, item.key)
        self.keys.insert(index, item.key)
        self.objects.insert(index, item)

    def remove(self, key: Key) -> None:
        """Remove the object with that key."""
        index = bisect_left(self.keys, key)
        del self.keys[index], self.objects[index]

    def descending(self, low: Key, high: Key) -> Iterator[StoredObject]:
        """Return the objects with low <= key < high, newest first."""
        first, last = bisect_left(self.keys, low), bisect_left(self.keys, high)
        return (self.objects[index] for index in range(last - 1, first - 1, -1))

    def page_before(self, low: Key, high: Key, limit: int) -> tuple[Sequence[StoredObject], bool]:
        """Return the newest objects with low <= key < high, newest first.

        The second value is whether older objects remain.
        """
        first, last = bisect_left(self.keys, low), bisect_left(self.keys, high)
        start = max(first, last - limit)
        return self.objects[start:last][::-1], start > first

    def page_after(
        self, cursor: Key, low: Key, high: Key, limit: int
    ) -> tuple[Sequence[StoredObject], bool]:
        """Return the oldest objects past the cursor in the window, newest first.

        The second value is whether newer objects remain.
        """
        first = max(bisect_left(self.keys, low), bisect_right(self.keys, cursor))
        last = bisect_left(self.keys, high)
        stop = min(last, first + limit)
        return self.objects[first:stop][::-1], stop < last


class ObjectList:
    """All objects behind one list endpoint."""

    def __init__(self) -> None:
        self.everything = ObjectOrder()
        self.listed = ObjectOrder()
        self._by_id: dict[str, StoredObject] = {}
        self._inserted = 0

    def put(self, document: Mapping[str, Any], *, listed: bool = True) -> None:
        """Add an object, or replace the one of the same id, which keeps its insertion number.

        Args:
            document: The object; its place follows from ``created`` (or ``date``) in Unix seconds
                or ISO 8601, and without one it is the oldest.
            listed: False for an object that a list hides unless it is asked for all.
        """
        self.put_encoded(document["id"], created_second(document), encoded(document), listed=listed)

    def take_number(self) -> int:
        """Reserve an insertion number after all present objects, for an object put later."""
        self._inserted += 1
        return self._inserted

    def put_encoded(
        self,
        object_id: str,
        created: int,
        body: bytes,
        *,
        listed: bool = True,
        number: int | None = None,
    ) -> None:
        """Add or replace an object whose JSON is at hand.

        Args:
            object_id: Id of the object.
            created: Creation time in Unix seconds.
            body: JSON of the object.
            listed: As for ``put``.
            number: Reserved insertion number among the objects of its second; None for a new one.
        """
        replaced = self._by_id.get(object_id)
        if replaced is not None:
            number = replaced.key[1]
            self.delete(object_id)
        elif number is None:
            number = self.take_number()
        item = StoredObject(
            id=object_id,
            key=(created, number),
            listed=listed,
            body=body,
        )
        self._by_id[object_id] = item
        self.everything.insert(item)
        if listed:
            self.listed.insert(item)

    def delete(self, object_id: str) -> None:
        """Remove an object; raise KeyError when the id is unknown."""
        item = self._by_id.pop(object_id)
        self.everything.remove(item.key)
        if item.listed:
            self.listed.remove(item.key)

    def get(self, object_id: str) -> StoredObject | None:
        """Return the object of that id, hidden or not."""
        return self._by_id.get(object_id)

    def documents(self) -> Iterator[dict[str, Any]]:
        """Return all objects, including hidden ones, oldest first."""
        return (exact_json.decode(item.body) for item in self.everything.objects)

    def ids(self) -> set[str]:
        """Return the ids of all objects, including hidden ones."""
        return set(self._by_id)

    def __len__(self) -> int:
        return len(self._by_id)


def created_second(document: Mapping[str, Any]) -> int:
    """Return an object's creation time in Unix seconds; 0 when it has none."""
    value = document.get("created", document.get("date", 0))
    if isinstance(value, str):
        return int(datetime.fromisoformat(value).timestamp())
    return int(value)
