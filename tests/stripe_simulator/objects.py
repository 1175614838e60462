"""The objects of one list, kept in order so that a page costs no more than itself."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from engine_server import exact_json

# Creation second, then insertion number: what lists are ordered by.
Key = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredObject:
    """One object, encoded once.

    Attributes:
        id: Unique in its list.
        key: Its place in the order.
        listed: Whether a list shows it without being asked for all.
        body: Its JSON.
    """

    id: str
    key: Key
    listed: bool
    body: bytes


def encoded(value: Any) -> bytes:
    """A value's JSON, which takes no more memory than it has bytes."""
    # What orjson answers holds on to a buffer of eight kilobytes, however small it is.
    return bytes(memoryview(exact_json.encode(value)))


class ObjectOrder:
    """Objects in ascending order of their keys."""

    def __init__(self) -> None:
        self.keys: list[Key] = []
        self.objects: list[StoredObject] = []

    def insert(self, item: StoredObject) -> None:
        """Puts an object in its place; the usual case, the newest, is the cheap one."""
        index = bisect_left(self.keys, item.key)
        self.keys.insert(index, item.key)
        self.objects.insert(index, item)

    def remove(self, key: Key) -> None:
        """Takes out the object that is there."""
        index = bisect_left(self.keys, key)
        del self.keys[index], self.objects[index]

    def descending(self, low: Key, high: Key) -> Iterator[StoredObject]:
        """The objects with low <= key < high, newest first."""
        first, last = bisect_left(self.keys, low), bisect_left(self.keys, high)
        return (self.objects[index] for index in range(last - 1, first - 1, -1))

    def page_before(self, low: Key, high: Key, limit: int) -> tuple[Sequence[StoredObject], bool]:
        """The newest objects with low <= key < high, newest first; whether older remain."""
        first, last = bisect_left(self.keys, low), bisect_left(self.keys, high)
        start = max(first, last - limit)
        return self.objects[start:last][::-1], start > first

    def page_after(
        self, cursor: Key, low: Key, high: Key, limit: int
    ) -> tuple[Sequence[StoredObject], bool]:
        """The oldest objects past the cursor in the window, newest first; whether newer remain."""
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
        """Adds an object, or replaces the one of the same id, which keeps its insertion number.

        Args:
            document: The object; ``created`` (or ``date``) in Unix seconds or ISO 8601 gives its
                place, and without one it stands at the old end.
            listed: False for what a list hides unless it is asked for all.
        """
        self.put_encoded(document["id"], created_second(document), encoded(document), listed=listed)

    def take_number(self) -> int:
        """Keeps a place for an object that is put later: behind all that are there by now."""
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
        """The same for an object whose JSON is at hand.

        Args:
            object_id: Its id.
            created: In Unix seconds.
            body: Its JSON.
            listed: As of ``put``.
            number: The place among those of its second that was kept for it, if any was.
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
        """Removes an object; KeyError when there is none of that id."""
        item = self._by_id.pop(object_id)
        self.everything.remove(item.key)
        if item.listed:
            self.listed.remove(item.key)

    def get(self, object_id: str) -> StoredObject | None:
        """The object of that id, hidden or not."""
        return self._by_id.get(object_id)

    def documents(self) -> Iterator[dict[str, Any]]:
        """Every object, hidden ones included, oldest first."""
        return (exact_json.decode(item.body) for item in self.everything.objects)

    def ids(self) -> set[str]:
        """The id of every object, hidden ones included."""
        return set(self._by_id)

    def __len__(self) -> int:
        return len(self._by_id)


def created_second(document: Mapping[str, Any]) -> int:
    """When an object says that it was made, in Unix seconds; 0 when it does not."""
    value = document.get("created", document.get("date", 0))
    if isinstance(value, str):
        return int(datetime.fromisoformat(value).timestamp())
    return int(value)
