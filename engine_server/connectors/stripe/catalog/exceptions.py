"""Lists that differ from the rule, with the reason; every other list is a plain stream."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True, kw_only=True)
class NestedList:
    """A list that is read inside the objects of another one.

    Attributes:
        stream: The stream of its items.
        parent: The path of the list whose objects hold it.
        field: The field of those objects that holds it.
        parent_field: The field of its items that names the object.
    """

    stream: str
    parent: str
    field: str
    parent_field: str


# Lists that require the owner of their items, but that every object of another list holds as well,
# by path. They are read there, because separate lists would cost a request for every parent. Only
# lists whose items are objects in their own right: other objects name them, or they are retrieved
# by their id.
NESTED_LISTS: Mapping[str, NestedList] = MappingProxyType(
    {
        "/v1/application_fees/{id}/refunds": NestedList(
            stream="application_fee_refunds",
            parent="/v1/application_fees",
            field="refunds",
            parent_field="fee",
        ),
        "/v1/radar/value_list_items": NestedList(
            stream="radar_value_list_items",
            parent="/v1/radar/value_lists",
            field="list_items",
            parent_field="value_list",
        ),
        "/v1/subscription_items": NestedList(
            stream="subscription_items",
            parent="/v1/subscriptions",
            field="items",
            parent_field="subscription",
        ),
        "/v1/transfers/{id}/reversals": NestedList(
            stream="transfer_reversals",
            parent="/v1/transfers",
            field="reversals",
            parent_field="transfer",
        ),
    }
)

# Lists that require the owner of their items, by the parameter that names it, if events report all
# items of an owner. Only events fill these streams: their history would cost a request for every
# owner. An item does not name its owner, so its record does, by the same name
# (https://docs.stripe.com/api/entitlements/active-entitlement).
OWNERS: Mapping[str, str] = MappingProxyType({"/v1/entitlements/active_entitlements": "customer"})

# Parameters that make a list show everything, by path.
SHOW_ALL: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        # Omits canceled ones by default (https://docs.stripe.com/api/subscriptions/list).
        "/v1/subscriptions": {"status": "all"},
        # Required, with only one value (https://docs.stripe.com/api/tax/location).
        "/v1/tax/locations": {"type": "performance"},
        # Omits closed ones by default.
        "/v2/money_management/financial_accounts": {
            "statuses[0]": "closed",
            "statuses[1]": "open",
            "statuses[2]": "pending",
        },
    }
)

# Objects that a list omits, and cannot be made to show together with the rest, by path. No other
# list is documented to omit objects when its filters are left out.
NOT_SHOWN: Mapping[str, str] = MappingProxyType(
    {
        # https://docs.stripe.com/api/customers/list
        "/v1/customers": "customers on a test clock",
        # https://docs.stripe.com/api/payment_methods/list
        "/v1/payment_methods": "payment methods of type custom",
        # https://docs.stripe.com/api/prices/list. It documents that it shows only active ones, but
        # was seen to show all: https://github.com/strangerstudios/paid-memberships-pro/pull/3717
        "/v1/prices": "prices made inline, with price_data",
        # https://docs.stripe.com/api/quotes/list
        "/v1/quotes": "quotes on a test clock",
        # https://docs.stripe.com/api/radar/reviews/list
        "/v1/reviews": "closed reviews",
        # https://docs.stripe.com/api/subscription_schedules/list
        "/v1/subscription_schedules": "schedules of customers on a test clock",
        # https://docs.stripe.com/api/subscriptions/list
        "/v1/subscriptions": "subscriptions on a test clock",
        # https://docs.stripe.com/api/tax_ids/list
        "/v1/tax_ids": "tax ids of customers",
        # https://docs.stripe.com/api/v2/core/accounts/list
        "/v2/core/accounts": "closed accounts",
    }
)

# The creation time if it is not called "created", by path. The filter is still "created"
# (https://docs.stripe.com/api/invoiceitems/list, https://docs.stripe.com/api/invoiceitems/object).
CREATED_FIELDS: Mapping[str, str] = MappingProxyType({"/v1/invoiceitems": "date"})

# Lists whose ``limit`` may be less than 100, and that return everything without it: one object per
# currency (https://docs.stripe.com/api/exchange_rates/list).
OWN_LIMITS = frozenset({"/v1/exchange_rates"})
