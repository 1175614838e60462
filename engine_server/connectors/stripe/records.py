"""Stripe's objects as records: stamped with where they are from and how new they are."""

from typing import Any

from engine_server import exact_json
from engine_server.connectors.stripe.listed import ListedObject


class Stamps:
    """What the records of one answer are stamped with.

    ``_account_id`` is the account that they are from, ``_updated_at`` the Unix second when the
    object was ``updated`` if it tells, else when the answer came.
    """

    def __init__(self, *, account_id: str, received_at: int) -> None:
        self._account_id = account_id
        self._received_at = received_at
        self._text = self._as_text(received_at)

    def on_text(self, listed: ListedObject) -> bytes:
        """The record of an object as it was sent: UTF-8 JSON."""
        updated = listed.head.updated
        stamps = self._text if type(updated) is not int else self._as_text(updated)
        text = memoryview(listed.text)
        if listed.head.id is None and not bytes(text[1:-1]).strip():
            return stamps.replace(b",", b"{", 1)
        # The stamps end the object in place of its own bracket.
        return b"".join((text[:-1], stamps))

    def on_object(self, record: dict[str, Any]) -> bytes:
        """The same of an object that was read; the stamps are added to it."""
        updated = record.get("updated")
        record["_account_id"] = self._account_id
        record["_updated_at"] = updated if type(updated) is int else self._received_at
        return exact_json.encode(record)

    def _as_text(self, updated_at: int) -> bytes:
        return b',"_account_id":%b,"_updated_at":%d}' % (
            exact_json.encode(self._account_id),
            updated_at,
        )
