"""What goes on in an account: objects made, changed and deleted at random, at an even rate."""

import asyncio
import json
from collections.abc import Callable
from random import Random
from typing import Any

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
# What can be made and changed by itself, with a field that changes.
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
# Of no other change to a payment intent an event tells (https://docs.stripe.com/api/events/types).
_STATUSES = ("canceled", "processing", "requires_action", "succeeded")
# Of these, what can be deleted; a subscription that is deleted is canceled.
_DELETED = ("coupons", "customers", "invoices", "products")

_FEW = 10

Document = dict[str, Any]


class Business:
    """The changes to one account.

    Attributes:
        gone: What was deleted so far, by stream and id, as it was last.
        changes: How many changes were made.
    """

    def __init__(self, simulator: StripeSimulator, *, seed: int) -> None:
        self.gone: dict[str, dict[str, Document]] = {stream: {} for stream in STREAMS}
        self.changes = 0
        self._simulator = simulator
        self._random = Random(seed)  # noqa: S311 - a soak that fails must fail again

    async def go_on(self, *, seconds: float, rate: float) -> None:
        """Goes on for so long, with so many changes a second."""
        clock = asyncio.get_running_loop().time
        began = clock()
        for number in range(int(seconds * rate)):
            self.change()
            # By the clock, so that a late turn is made up for.
            await asyncio.sleep(max(0.0, began + (number + 1) / rate - clock()))

    def change(self) -> None:
        """One change, or a pair in one second."""
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
        held = json.loads(stored.body) if stored else {}
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
        # Some are left to be changed.
        is_scarce = len(self._simulator.objects(stream)) <= _FEW
        if is_scarce or not object_id or not self._may_be_deleted(stream, object_id):
            return
        stored = self._simulator.objects(stream).get(object_id)
        assert stored is not None
        self.gone[stream][object_id] = json.loads(stored.body)
        self._simulator.delete(stream, object_id)

    def _may_be_deleted(self, stream: str, object_id: str) -> bool:
        stored = self._simulator.objects(stream).get(object_id)
        assert stored is not None
        return stream != "invoices" or json.loads(stored.body)["status"] == "draft"

    def _new_value(self, stream: str) -> Document:
        if stream == "payment_intents":
            return {"status": self._random.choice(_STATUSES)}
        return {_CHANGING[stream]: f"value {self._random.random()}"}

    def _one_of(self, stream: str) -> str | None:
        ids = sorted(self._simulator.objects(stream).ids())
        return self._random.choice(ids) if ids else None
