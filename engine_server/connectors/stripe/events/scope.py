"""Scope of a pipeline: which events concern it, and how they are processed."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Literal, Self

from engine_server.barriers import Barriers
from engine_server.connectors.protocols import SelectedStream, StoredRows
from engine_server.connectors.stripe.account import Account
from engine_server.connectors.stripe.catalog.streams import Resource, api_version, load_resources
from engine_server.connectors.stripe.config import StripeConfig
from engine_server.connectors.stripe.events.stored_items import StoredItems

Revalidated = AbstractSet[str] | Literal["all"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EventScope:
    """The events that a pipeline processes, and how.

    Attributes:
        account_id: The account of the events, which every record carries.
        is_platform: Whether that account's own key reads it, so that its connected accounts are
            objects of its own.
        livemode: The mode of that key; None if unknown.
        streams: The selected streams by name.
        revalidated: The types of object that are fetched again.
        stored_rows: Rows that the destination holds; None if they cannot be queried.
        api_version: The version that rows are rendered in.
        barriers: Signals when yielded messages are committed; None if no messages are in flight.
        stored_items: Queries the stored rows for list items, for the events of one batch.
        on_event_compared: Called with the id of each event that is compared with stored items.
    """

    account_id: str
    is_platform: bool
    livemode: bool | None
    streams: Mapping[str, Resource]
    revalidated: Revalidated = frozenset()
    stored_rows: StoredRows | None = None
    api_version: str = field(default_factory=api_version)
    barriers: Barriers | None = None
    stored_items: StoredItems | None = None
    on_event_compared: Callable[[str], None] = lambda _: None

    @classmethod
    def of(
        cls,
        config: StripeConfig,
        account: Account,
        streams: Sequence[SelectedStream],
        stored_rows: StoredRows | None = None,
        barriers: Barriers | None = None,
    ) -> Self:
        """Return the scope of a configured pipeline."""
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
            stored_rows=stored_rows,
            api_version=config.api_version or api_version(),
            barriers=barriers,
        )

    def batch(self, on_barrier: Callable[[], None] = lambda: None) -> StoredItems:
        """Return the queries for stored items that the events of one batch share."""
        return StoredItems(self.stored_rows, self.barriers, on_barrier=on_barrier)

    def sharing(self, stored_items: StoredItems) -> "EventScope":
        """Return the scope for the events of one batch."""
        return dataclasses.replace(self, stored_items=stored_items)

    def only(self, streams: AbstractSet[str]) -> "EventScope":
        """Return the scope limited to some of the streams."""
        chosen = {name: self.streams[name] for name in self.streams if name in streams}
        return dataclasses.replace(self, streams=chosen)

    def revalidates(self, object_type: str) -> bool:
        """Return whether objects of a type are fetched again."""
        return self.revalidated == "all" or object_type in self.revalidated
