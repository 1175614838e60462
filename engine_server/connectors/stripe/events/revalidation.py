"""Revalidation: which objects are fetched again because an event may be outdated."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

from engine_server.connectors.stripe.catalog.object_types import ObjectType
from engine_server.text import is_storable

# The final states of objects, by type:
# https://docs.stripe.com/api/checkout/sessions/object
# https://docs.stripe.com/api/credit_notes/void
# https://docs.stripe.com/api/invoices/void
# https://docs.stripe.com/api/payment_intents/cancel
# https://docs.stripe.com/api/payouts/cancel
# https://docs.stripe.com/api/quotes/cancel
# https://docs.stripe.com/api/setup_intents/cancel
# https://docs.stripe.com/api/subscription_schedules/object
# https://docs.stripe.com/billing/subscriptions/overview (subscription statuses)
# https://docs.stripe.com/api/topups/cancel
_FINAL_STATES: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "checkout.session": frozenset({"expired"}),
        "credit_note": frozenset({"void"}),
        "invoice": frozenset({"void"}),
        "payment_intent": frozenset({"canceled"}),
        "payout": frozenset({"canceled"}),
        "quote": frozenset({"canceled"}),
        "setup_intent": frozenset({"canceled"}),
        "subscription": frozenset({"canceled", "incomplete_expired"}),
        "subscription_schedule": frozenset({"canceled", "completed", "released"}),
        "topup": frozenset({"canceled"}),
    }
)

# The field that names the object whose URL is the prefix of this one's.
_PARENT_FIELDS: Mapping[str, str] = MappingProxyType(
    {"fee_refund": "fee", "transfer_reversal": "transfer"}
)


def is_final(record: Mapping[str, Any]) -> bool:
    """Return whether an object is in a final state."""
    return record.get("status") in _FINAL_STATES.get(str(record.get("object")), ())


def retrieve_path(kind: ObjectType, record: Mapping[str, Any]) -> str | None:
    """Return the path to retrieve an object from, e.g. ``/v1/customers/cus_1``.

    None if no URL exists: there is no such call; it takes the id of another object, which this one
    does not name; or the id, which users choose for some objects, would lead to another URL.
    """
    object_id, path = record["id"], kind.path
    is_path_segment = object_id not in (".", "..") and is_storable(object_id)
    if not is_path_segment or not kind.is_retrievable:
        return None
    if "{id}" in path:
        parent = record.get(_PARENT_FIELDS[kind.name])
        # A reference may be expanded.
        parent_id = parent.get("id") if isinstance(parent, dict) else parent
        if not isinstance(parent_id, str):
            return None
        path = path.replace("{id}", quote(parent_id, safe=""))
    return f"{path}/{quote(object_id, safe='')}"
