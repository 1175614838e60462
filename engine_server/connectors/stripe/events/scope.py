"""Which events concern a pipeline, and what is made of them."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Literal, Self

from engine_server.barriers import Barriers
from engine_server.connectors.protocols import Inventory, SelectedStream
from engine_server.connectors.stripe.account import Account
from engine_server.connectors.stripe.catalog import Resource, api_version, load_resources
from engine_server.connectors.stripe.config import StripeConfig
from engine_server.connectors.stripe.events.stored_items import StoredItems

Revalidated = AbstractSet[str] | Literal["all"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EventScope:
    """What of the events is wanted.

    Attributes:
        account_id: The account whose events they are; every record is stamped with it.
        is_platform: Whether that account's own key reads it, so that the accounts connected to it
            are objects of its own.
        livemode: The mode of that key; None when it does not tell.
        streams: The selected streams by name.
        revalidated: The types of object that are fetched again.
        inventory: What the destination holds, where it can be asked.
        api_version: What rows are rendered in, whichever way their objects are read.
        barriers: Tells when what was yielded is committed; None where nothing is on its way.
        stored_items: Asks the inventory for the items of lists, for the events of one batch.
        on_compared: Called with the id of each event that is compared with stored items.
    """

    account_id: str
    is_platform: bool
    livemode: bool | None
    streams: Mapping[str, Resource]
    revalidated: Revalidated = frozenset()
    inventory: Inventory | None = None
    api_version: str = field(default_factory=api_version)
    barriers: Barriers | None = None
    stored_items: StoredItems | None = None
    on_compared: Callable[[str], None] = lambda _: None

    @classmethod
    def of(
        cls,
        config: StripeConfig,
        account: Account,
        streams: Sequence[SelectedStream],
        inventory: Inventory | None = None,
        barriers: Barriers | None = None,
    ) -> Self:
        """What a configured pipeline wants."""
        resources = load_resources()
        key = config.api_key.get_secret_value()
        modes = {"live": True, "test": False}
        wanted = config.revalidate_objects
        return cls(
            account_id=account.id,
            is_platform=config.stripe_account is None,
            # https://docs.stripe.com/keys: sk_live_..., rk_test_...
            livemode=modes.get(key.split("_")[1]),
            streams={selected.name: resources[selected.name] for selected in streams},
            revalidated=wanted if isinstance(wanted, str) else frozenset(wanted),
            inventory=inventory,
            api_version=config.api_version or api_version(),
            barriers=barriers,
        )

    def batch(self, on_barrier: Callable[[], None] = lambda: None) -> StoredItems:
        """Return the questions about stored items that the events of one batch share."""
        return StoredItems(self.inventory, self.barriers, on_barrier=on_barrier)

    def sharing(self, stored_items: StoredItems) -> "EventScope":
        """The same for the events of one batch."""
        return dataclasses.replace(self, stored_items=stored_items)

    def only(self, streams: AbstractSet[str]) -> "EventScope":
        """The same of some of the streams alone."""
        chosen = {name: self.streams[name] for name in self.streams if name in streams}
        return dataclasses.replace(self, streams=chosen)

    def revalidates(self, object_type: str) -> bool:
        """Whether objects of a type are fetched again."""
        return self.revalidated == "all" or object_type in self.revalidated
