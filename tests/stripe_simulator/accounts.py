"""One Stripe account: what it is, and what it holds."""

import orjson

from tests.stripe_simulator.nested import NestedLists
from tests.stripe_simulator.objects import ObjectList


class Account:
    """The key's own account, or one that is connected to it.

    Attributes:
        id: e.g. ``acct_1``.
        created: When it was made, Unix seconds.
        nested: The lists inside its objects.
    """

    def __init__(self, account_id: str, created: int) -> None:
        self.id = account_id
        self.created = created
        self.nested = NestedLists()
        self._objects: dict[str, ObjectList] = {}

    def objects(self, name: str) -> ObjectList:
        """The objects of a stream."""
        return self._objects.setdefault(name, ObjectList())

    def body(self) -> bytes:
        """Its JSON, as ``GET /v1/account`` answers it."""
        return orjson.dumps(
            {
                "id": self.id,
                "object": "account",
                "charges_enabled": True,
                "country": "US",
                "created": self.created,
                "default_currency": "usd",
                "details_submitted": True,
                "email": "owner@example.com",
                "payouts_enabled": True,
                "type": "standard",
            }
        )
