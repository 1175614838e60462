"""Random activity in an account: objects created, changed and deleted at an even rate."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable
from random import Random
from typing import Any

from engine_server import exact_json
from engine_server.connectors.stripe.catalog.streams import api_version
from tests.soak.oddities import OLD_VERSION, REFUSED, REFUSING, Oddities, is_refused
from tests.stripe_simulator.events import Event
from tests.stripe_simulator.simulator import StripeSimulator

STREAMS = (
    "charges",
    "coupons",
    "customers",
    "invoices",
    "payment_intents",
    "prices",
    "products",
    "subscription_items",
    "subscriptions",
    "tax_rates",
)
# The streams whose objects can be created and changed on their own, each with a field to change.
_CHANGING = {
    "charges": "description",
    "coupons": "name",
    "customers": "name",
    "invoices": "description",
    "payment_intents": "status",
    "prices": "nickname",
    "products": "name",
    "tax_rates": "description",
}
# Streams by the ``object`` value of their objects.
_STREAM_OF = {stream.removesuffix("s"): stream for stream in STREAMS}
# The only changes to a payment intent that have events (https://docs.stripe.com/api/events/types).
_STATUSES = ("canceled", "processing", "requires_action", "succeeded")
# The streams whose objects can be deleted; deleting a subscription cancels it.
_DELETED = ("coupons", "customers", "invoices", "products")

_FEW = 10
# One change in this many writes a value that a table refuses, or replaces one.
_REFUSED_EVERY = 12
# Interval and limit of the changes, in the first half of the time, to objects that cannot be looked
# up: each such event is retried many times.
_UNSHOWN_EVERY, _MOST_UNSHOWN = 8, 20
# One value in this many holds one of these characters.
_CHARACTER_EVERY = 8
_CHARACTERS = ("\0", "\ud83d", "\udc00\ud83d", "\\u0000", "\U0001f600")

Document = dict[str, Any]
# The name of a stream and the id of one of its objects.
Key = tuple[str, str]


class Business:
    """Changes to one account.

    Attributes:
        gone: The last state of each deleted object, by stream and id.
        changes: The number of changes made.
        oddities: The oddities of the account.
        versions: Every version of each object, the latest last.
        events: The ids of the events about each object, the latest last.
        initial: The objects that existed at first.
    """

    def __init__(
        self, simulator: StripeSimulator, *, seed: int, oddities: Oddities | None = None
    ) -> None:
        self.gone: dict[str, dict[str, Document]] = {stream: {} for stream in STREAMS}
        self.changes = 0
        self.oddities = oddities or Oddities()
        self.versions: defaultdict[Key, list[Document]] = defaultdict(list)
        self.events: defaultdict[Key, list[str]] = defaultdict(list)
        self._simulator = simulator
        self._random = Random(seed)  # noqa: S311 - a soak that fails must fail again
        self._unshown = {
            (stream, object_id)
            for stream, ids in sorted(self.oddities.unshown.items())
            for object_id in sorted(ids)
        }
        if self.oddities.rejections:
            self._make_initial_oddities()
        for stream in STREAMS:
            for document in simulator.objects(stream).documents():
                self.versions[stream, document["id"]].append(document)
        self.initial = frozenset(self.versions)
        simulator.on_event(self._note)

    def events_of(self, keys: Iterable[Key]) -> set[str]:
        """Return the ids of the events about these objects."""
        return {event_id for key in keys for event_id in self.events[key]}

    @property
    def unshown(self) -> frozenset[Key]:
        """Return the objects that Stripe refuses to show when they are looked up."""
        return frozenset(self._unshown)

    async def go_on(self, *, seconds: float, rate: float) -> None:
        """Make ``rate`` changes a second for ``seconds`` seconds."""
        clock = asyncio.get_running_loop().time
        began = clock()
        total = int(seconds * rate)
        unshown = range(3, total // 2, _UNSHOWN_EVERY)[:_MOST_UNSHOWN]
        for number in range(total):
            self._set_version(number)
            if self._unshown and number in unshown:
                self._update_unshown()
            elif self.oddities.rejections and number % _REFUSED_EVERY == 0:
                self._spoil()
            elif self.oddities.rejections and number % (2 * _REFUSED_EVERY) == 1:
                self._mend()
            else:
                self.change()
            # Sleep until a time on the clock, so that a late change is made up for.
            await asyncio.sleep(max(0.0, began + (number + 1) / rate - clock()))

    def change(self) -> None:
        """Make one change, or two in one second."""
        changes: list[Callable[[], None]] = [
            self._make,
            self._update,
            self._update,
            self._update_twice,
            self._subscribe,
            self._change_items,
            self._delete,
        ]
        self._random.choice(changes)()
        self.changes += 1

    def _note(self, event: Event) -> None:
        """Record the object's version after a change."""
        about = exact_json.decode(event.latest or event.body)["data"]["object"]
        stream = _STREAM_OF.get(about["object"])
        if stream is None:
            return
        self.events[stream, about["id"]].append(event.id)
        self.versions[stream, about["id"]].append(about)
        for item in about["items"]["data"] if stream == "subscriptions" else ():
            self.versions["subscription_items", item["id"]].append(item)

    def _set_version(self, number: int) -> None:
        if not self.oddities.version_lasts:
            return
        is_old = number // self.oddities.version_lasts % 2 == 0
        self._simulator.set_default_version(OLD_VERSION if is_old else api_version())
        self._simulator.cli_sessions.own_version = OLD_VERSION if is_old else None
        self._simulator.cli_sessions.sends_latest = not is_old

    def _make_initial_oddities(self) -> None:
        """Put values that are refused into some of the history."""
        for stream, name in REFUSING.items():
            objects = self._simulator.objects(stream)
            for document in list(objects.documents())[2::60][:10]:
                if (stream, document["id"]) not in self._unshown:
                    objects.put({**document, name: f"{REFUSED} from the start"})

    def _update_unshown(self) -> None:
        """Change an object that cannot be looked up."""
        stream, object_id = self._random.choice(sorted(self._unshown))
        self._simulator.update(stream, object_id, self._new_value(stream))
        self.changes += 1

    def _spoil(self) -> None:
        """Give a new or old object a value that its table refuses, or delete one that has it."""
        stream = self._random.choice(sorted(REFUSING))
        value = {REFUSING[stream]: f"{REFUSED} {self._random.random()}"}
        choice = self._random.random()
        spoiled = self._spoiled(stream)
        if choice < 0.2 and spoiled and stream in _DELETED:
            self._delete_one(stream, spoiled[0])
        elif choice < 0.5:
            self._simulator.create(stream, value)
        elif object_id := self._one_of(stream):
            self._simulator.update(stream, object_id, value)
        self.changes += 1

    def _mend(self) -> None:
        """Give an object whose row is refused a value that its table accepts."""
        stream = self._random.choice(sorted(REFUSING))
        if spoiled := self._spoiled(stream):
            self._simulator.update(stream, self._random.choice(spoiled), self._new_value(stream))
        self.changes += 1

    def _spoiled(self, stream: str) -> list[str]:
        documents = self._simulator.objects(stream).documents()
        return [one["id"] for one in documents if is_refused(stream, one)]

    def _make(self) -> None:
        stream = self._random.choice(sorted(_CHANGING))
        self._simulator.create(stream, self._new_value(stream))

    def _update(self) -> None:
        stream = self._random.choice(sorted(_CHANGING))
        if object_id := self._one_of(stream):
            self._simulator.update(stream, object_id, self._new_value(stream))

    def _update_twice(self) -> None:
        stream = self._random.choice(sorted(_CHANGING))
        if object_id := self._one_of(stream):
            for _ in range(2):
                self._simulator.update(stream, object_id, self._new_value(stream))

    def _subscribe(self) -> None:
        customer, price = self._one_of("customers"), self._one_of("prices")
        if customer and price:
            items = [{"price": price}]
            self._simulator.create("subscriptions", {"customer": customer, "items": items})

    def _change_items(self) -> None:
        subscription, price = self._one_of("subscriptions"), self._one_of("prices")
        if not subscription or not price:
            return
        stored = self._simulator.objects("subscriptions").get(subscription)
        held = exact_json.decode(stored.body) if stored else {}
        items = held["items"]["data"]
        if held["status"] == "canceled":
            return
        change: Document = {"price": price}
        if len(items) > 1 and self._random.random() < 0.7:
            gone = self._random.choice(items)
            change = {"id": gone["id"], "deleted": True}
            self.gone["subscription_items"][gone["id"]] = gone
        self._simulator.update("subscriptions", subscription, {"items": [change]})

    def _delete(self) -> None:
        stream = self._random.choice(_DELETED)
        object_id = self._one_of(stream)
        # Some objects are kept for later changes.
        is_scarce = len(self._simulator.objects(stream)) <= _FEW
        if is_scarce or not object_id or not self._may_be_deleted(stream, object_id):
            return
        self._delete_one(stream, object_id)

    def _delete_one(self, stream: str, object_id: str) -> None:
        stored = self._simulator.objects(stream).get(object_id)
        assert stored is not None
        self.gone[stream][object_id] = exact_json.decode(stored.body)
        self._simulator.delete(stream, object_id)

    def _may_be_deleted(self, stream: str, object_id: str) -> bool:
        stored = self._simulator.objects(stream).get(object_id)
        assert stored is not None
        return stream != "invoices" or exact_json.decode(stored.body)["status"] == "draft"

    def _new_value(self, stream: str) -> Document:
        if stream == "payment_intents":
            return {"status": self._random.choice(_STATUSES)}
        value = f"value {self._random.random()}"
        if self.oddities.characters and self._random.randrange(_CHARACTER_EVERY) == 0:
            value += self._random.choice(_CHARACTERS)
        return {_CHANGING[stream]: value}

    def _one_of(self, stream: str) -> str | None:
        ids = sorted(self._simulator.objects(stream).ids())
        ids = [one for one in ids if (stream, one) not in self._unshown]
        return self._random.choice(ids) if ids else None
