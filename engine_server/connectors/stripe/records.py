"""Records of Stripe's objects, listed or in events, with metadata on their origin and age."""

from typing import Any, TypeAlias

from engine_server import exact_json
from engine_server.connectors.stripe.lists.list_page import ListedObject

# The name of a stream, and a record of it as UTF-8 JSON.
StreamRecord: TypeAlias = tuple[str, bytes]


class RecordMetadata:
    """Metadata of the records of one response.

    ``_account_id`` is the account of the records. ``_updated_at`` is the last Unix second whose
    changes are all in the response, regardless of an object's own time of update. An event that the
    response may have missed is then newer than the record.
    """

    def __init__(self, *, account_id: str, known_until: int) -> None:
        self._account_id = account_id
        self._known_until = known_until
        self._text = b',"_account_id":%b,"_updated_at":%d}' % (
            exact_json.encode(account_id),
            known_until,
        )

    def add_to_text(self, listed: ListedObject) -> bytes:
        """Return the record of an object from its JSON text, as UTF-8 JSON."""
        text = memoryview(listed.text)
        if listed.head.id is None and not bytes(text[1:-1]).strip():
            return self._text.replace(b",", b"{", 1)
        # The metadata replace the closing bracket of the object.
        return b"".join((text[:-1], self._text))

    def add_to_object(self, record: dict[str, Any]) -> bytes:
        """Return the record of a decoded object, to which the metadata are added."""
        record["_account_id"] = self._account_id
        record["_updated_at"] = self._known_until
        return exact_json.encode(record)


def record_of(fields: dict[str, Any], *, account_id: str, created: int) -> bytes:
    """Return the record of an event's object, with the same metadata as a listed object.

    ``_updated_at`` is the second of the event, regardless of the object's own time of update. This
    also holds for an object that was fetched because of the event and may be newer: the changes
    since then have events of their own, which the destination would skip if the record had a later
    time.

    Args:
        fields: The object; it is not changed.
        account_id: The account of the object.
        created: The creation time of the event in Unix seconds.
    """
    return exact_json.encode({**fields, "_account_id": account_id, "_updated_at": created})
