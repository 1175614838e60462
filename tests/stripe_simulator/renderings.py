"""Objects as events of older API versions show them: the same objects with other fields.

Rules: https://docs.stripe.com/webhooks/versioning, and for the fields
https://docs.stripe.com/changelog/basil/2025-03-31/adds-new-parent-field-to-invoicing-objects,
https://docs.stripe.com/changelog/basil/2025-03-31/deprecate-subscription-current-period-start-and-end
and https://docs.stripe.com/upgrades#2019-10-17 (a customer's balance).
"""

from collections.abc import Callable, Mapping
from typing import Any

from tests.stripe_simulator.changes import Document

# According to the changelog, the first version that has ``parent``, and periods in items.
_BASIL = "2025-03-31.basil"
_BALANCE_SINCE = "2019-10-17"


def rendered(about: Mapping[str, Any], version: str) -> Document:
    """Return an object, or its previous attributes, as an API version shows it."""
    document = dict(about)
    render = _RENDERINGS.get(str(document.get("object")))
    # Version names begin with their dates.
    if render is not None and version < _BASIL:
        render(document, version)
    return document


def _invoice(invoice: Document, _version: str) -> None:
    parent = invoice.pop("parent", None) or {}
    invoice["subscription"] = (parent.get("subscription_details") or {}).get("subscription")
    taxes = invoice.pop("total_taxes", None) or []
    invoice["tax"] = sum(tax["amount"] for tax in taxes)


def _subscription(subscription: Document, _version: str) -> None:
    items = [dict(item) for item in subscription["items"]["data"]]
    for item in items:
        for bound in ("current_period_start", "current_period_end"):
            if bound in item:
                subscription[bound] = item.pop(bound)
    subscription["items"] = {**subscription["items"], "data": items}


def _product(product: Document, _version: str) -> None:
    product.pop("default_price", None)
    product["attributes"] = []


def _customer(customer: Document, version: str) -> None:
    if version < _BALANCE_SINCE:
        customer["account_balance"] = customer.pop("balance", 0)


_RENDERINGS: Mapping[str, Callable[[Document, str], None]] = {
    "customer": _customer,
    "invoice": _invoice,
    "product": _product,
    "subscription": _subscription,
}
