"""One Stripe account with its objects and events."""

import itertools

import orjson

from tests.stripe_simulator.clock import Clock
from tests.stripe_simulator.events import EventLag, EventLog
from tests.stripe_simulator.nested import NestedLists
from tests.stripe_simulator.objects import ObjectList
from tests.stripe_simulator.seeds.references import References


class Account:
    """The key's own account, or an account that is connected to it.

    Attributes:
        id: Account id, e.g. ``acct_1``.
        created: Creation time in Unix seconds.
        clock: Clock of the account.
        nested: Lists inside its objects.
        events: Events of its objects.
        deleted_customers: Ids of deleted customers; they can still be retrieved, as deleted.
        tells_bare_lists: Whether a truncated list in ``previous_attributes`` omits that it is
            truncated.
        numbers: Numbers for the objects that requests create.
        references: Source of the ids and values of those objects.
    """

    def __init__(
        self, account_id: str, created: int, clock: Clock, lag: EventLag, *, connected: bool = False
    ) -> None:
        self.id = account_id
        self.created = created
        self.clock = clock
        self.nested = NestedLists()
        self.events = EventLog(account_id, clock, lag, connected=connected)
        self.deleted_customers: set[str] = set()
        self.tells_bare_lists = False
        self.numbers = itertools.count()
        # No plan's seed is as large, so these ids differ from those of seeded objects.
        self.references = References({}, int.from_bytes(account_id.encode(), "big"))
        self._objects = {"events": self.events.listed, "v2_core_events": self.events.thin}

    def objects(self, name: str) -> ObjectList:
        """Return the objects of a stream."""
        return self._objects.setdefault(name, ObjectList())

    def body(self) -> bytes:
        """Return the account's JSON, as ``GET /v1/account`` answers it."""
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
