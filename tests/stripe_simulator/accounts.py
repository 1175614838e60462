"""One Stripe account: what it is, and what it holds."""

import itertools

import orjson

from tests.stripe_simulator.clock import Clock
from tests.stripe_simulator.events import EventLag, EventLog
from tests.stripe_simulator.nested import NestedLists
from tests.stripe_simulator.objects import ObjectList
from tests.stripe_simulator.seeds.references import References


class Account:
    """The key's own account, or one that is connected to it.

    Attributes:
        id: e.g. ``acct_1``.
        created: When it was made, Unix seconds.
        clock: What time it is there.
        nested: The lists inside its objects.
        events: What happened to its objects.
        deleted_customers: The ids of those; they can still be retrieved, as deleted.
        tells_bare_lists: Whether a list in ``previous_attributes`` does not say that it is cut.
        numbers: What the objects that are made by requests are numbered with.
        references: What their ids and values follow from.
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
        # No plan's seed is as large: ids of seeded objects are others.
        self.references = References({}, int.from_bytes(account_id.encode(), "big"))
        self._objects = {"events": self.events.listed, "v2_core_events": self.events.thin}

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
