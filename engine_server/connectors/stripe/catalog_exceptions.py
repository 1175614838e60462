"""Where a list differs from the rule, and why; every other list is a plain stream."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True, kw_only=True)
class NestedList:
    """A list that is read inside the objects of another one.

    Attributes:
        stream: The stream of its items.
        parent: The path of the list whose objects hold it.
        field: The field of those objects that it is in.
    """

    stream: str
    parent: str
    field: str


# Lists that must be told whose items to list, but which every object of another list holds as well.
# By path. They are read there: one by one would cost a request for every parent.
NESTED_LISTS: Mapping[str, NestedList] = MappingProxyType(
    {
        "/v1/subscription_items": NestedList(
            stream="subscription_items", parent="/v1/subscriptions", field="items"
        ),
    }
)

# Lists that are no streams, by path, each with its reason.
LEFT_OUT: Mapping[str, str] = MappingProxyType(
    {
        "/v1/events": "tells of changes to the other streams for 30 days; it is read, not stored",
        "/v2/core/events": "as /v1/events",
    }
)

# What a list must be sent to show everything, by path. Some cannot be made to: /v2/core/accounts
# shows either open or closed ones, /v1/reviews open ones, /v1/tax_ids the account's own, and
# customers, subscriptions and quotes on a test clock are listed by that clock only.
SHOW_ALL: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        # Leaves canceled ones out by default.
        "/v1/subscriptions": {"status": "all"},
        # Leaves closed ones out by default.
        "/v2/money_management/financial_accounts": {
            "statuses[0]": "closed",
            "statuses[1]": "open",
            "statuses[2]": "pending",
        },
    }
)

# The creation time, where it is not called "created", by path.
CREATED_FIELDS: Mapping[str, str] = MappingProxyType({"/v1/invoiceitems": "date"})
