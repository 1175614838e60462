"""Stripe's objects as records: stamped with where they are from and how new they are."""

from typing import Any

from engine_server import exact_json
from engine_server.connectors.stripe.listed import ListedObject


class Stamps:
    """What the records of one answer are stamped with.

    ``_account_id`` is the account that they are from, ``_updated_at`` the last Unix second whose
    changes are all in the answer, whatever an object says of its own last update. An event that the
    answer may have missed, as it was on its way, is then newer than the record.
    """

    def __init__(self, *, account_id: str, known_until: int) -> None:
        self._account_id = account_id
        self._known_until = known_until
        self._text = b',"_account_id":%b,"_updated_at":%d}' % (
            exact_json.encode(account_id),
            known_until,
        )

    def on_text(self, listed: ListedObject) -> bytes:
        """The record of an object as it was sent: UTF-8 JSON."""
        text = memoryview(listed.text)
        if listed.head.id is None and not bytes(text[1:-1]).strip():
            return self._text.replace(b",", b"{", 1)
        # The stamps end the object in place of its own bracket.
        return b"".join((text[:-1], self._text))

    def on_object(self, record: dict[str, Any]) -> bytes:
        """The same of an object that was read; the stamps are added to it."""
        record["_account_id"] = self._account_id
        record["_updated_at"] = self._known_until
        return exact_json.encode(record)
