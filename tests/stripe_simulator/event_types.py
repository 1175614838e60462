"""Types of events for each change, limited to those that the ``stripe`` package knows."""

from collections.abc import Mapping
from functools import cache
from typing import Any, Literal, get_args

Verb = Literal["created", "updated", "deleted"]

# Most types begin with the name of their object.
_SUBJECTS: Mapping[str, str] = {
    "dispute": "charge.dispute",
    "issuing.authorization": "issuing_authorization",
    "issuing.card": "issuing_card",
    "issuing.cardholder": "issuing_cardholder",
    "issuing.dispute": "issuing_dispute",
    "issuing.transaction": "issuing_transaction",
    "subscription": "customer.subscription",
    "tax_id": "customer.tax_id",
}
_BY_ANOTHER_NAME: Mapping[str, str] = {"payment_method.created": "payment_method.attached"}


@cache
def known_types() -> frozenset[str]:
    """Return all types of snapshot events (https://docs.stripe.com/api/events/types)."""
    from stripe import Event

    return frozenset(get_args(Event.__annotations__["type"]))


def event_types(
    verb: Verb, before: Mapping[str, Any] | None, after: Mapping[str, Any]
) -> list[str]:
    """Return the event types of a change: one for the change, one for a new status.

    A created charge is reported by ``charge.succeeded`` alone, a paid invoice by
    ``invoice.updated`` and ``invoice.paid``; a change without an event type at Stripe is not
    reported.
    """
    subject = _SUBJECTS.get(after["object"], after["object"])
    name = f"{subject}.{verb}"
    names = [_BY_ANOTHER_NAME.get(name, name)]
    status = after.get("status")
    if verb != "deleted" and status != (before or {}).get("status"):
        names.append(f"{subject}.{status}")
    return [name for name in names if name in known_types()]
