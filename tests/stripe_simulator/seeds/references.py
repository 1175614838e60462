"""Ids and values that follow from a seed alone, so that objects can refer to each other."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import TypeVar

ChoiceT = TypeVar("ChoiceT")

_ID_PREFIXES = {
    "balance_transactions": "txn_",
    "charges": "ch_",
    "checkout_sessions": "cs_test_",
    "coupons": "",
    "customers": "cus_",
    "disputes": "du_",
    "invoices": "in_",
    "payment_intents": "pi_",
    "payment_methods": "pm_",
    "payouts": "po_",
    "prices": "price_",
    "products": "prod_",
    "refunds": "re_",
    "setup_intents": "seti_",
    "subscriptions": "sub_",
}


class References:
    """Ids of a plan's objects.

    Args:
        counts: Number of objects of each stream in the plan.
        seed: The plan's seed.
    """

    def __init__(self, counts: Mapping[str, int], seed: int) -> None:
        self._counts = counts
        self._seed = seed

    def id(self, stream: str, index: int) -> str:
        """Return the id of a stream's object by its place in the plan."""
        return self.token(_ID_PREFIXES[stream], stream, index)

    def some(self, stream: str, index: int) -> str:
        """Return the id of one of a stream's objects, or of a deleted one if the plan has none."""
        count = self._counts.get(stream, 0)
        return self.id(stream, index % count if count else index)

    def token(self, prefix: str, *parts: str | int) -> str:
        """Return an id for any other object."""
        return prefix + self._digest(*parts)[:24]

    def choice(self, options: Sequence[ChoiceT], *parts: str | int) -> ChoiceT:
        """Return one of the options, always the same for the same parts."""
        return options[self.number(len(options), *parts)]

    def number(self, below: int, *parts: str | int) -> int:
        """Return a number from 0, always the same for the same parts."""
        return int(self._digest(*parts), 16) % below

    def _digest(self, *parts: str | int) -> str:
        text = "/".join(map(str, (self._seed, *parts)))
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
