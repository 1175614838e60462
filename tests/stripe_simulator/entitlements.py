"""Entitlements of customers, and the summaries in their events.

Rules: https://docs.stripe.com/billing/entitlements and /api/entitlements/active-entitlement. In a
delivered summary the list is truncated, and its URL belongs to no endpoint: all entitlements are
listed by customer.
"""

from collections.abc import Sequence

import orjson

from tests.stripe_simulator.accounts import Account
from tests.stripe_simulator.changes import Document
from tests.stripe_simulator.events import AUTOMATIC
from tests.stripe_simulator.nested import EMBEDDED

STREAM = "entitlements_active_entitlements"


def entitle(account: Account, customer_id: str, lookup_keys: Sequence[str]) -> list[Document]:
    """Entitle a customer to exactly these features, and return its active entitlements.

    Args:
        account: Account of the customer.
        customer_id: Id of the customer.
        lookup_keys: Lookup keys of the features.
    """
    url = f"/v1/entitlements/active_entitlements?customer={customer_id}"
    before = account.nested.documents(url)
    after = [_entitlement(account, customer_id, key) for key in lookup_keys]
    objects = account.objects(STREAM)
    for gone in before:
        if objects.get(gone["id"]):
            objects.delete(gone["id"])
    for entitlement in after:
        objects.put(entitlement)
    embedded = account.nested.put(url, after)
    summary = {
        "object": "entitlements.active_entitlement_summary",
        "customer": customer_id,
        "entitlements": {
            "object": "list",
            "data": embedded["data"],
            "has_more": embedded["has_more"],
            "url": f"/v1/customer/{customer_id}/entitlements",
        },
        "livemode": False,
    }
    account.events.record(
        "entitlements.active_entitlement_summary.updated",
        orjson.dumps(summary),
        {"entitlements": {"data": before[:EMBEDDED]}},
        AUTOMATIC,
    )
    return after


def _entitlement(account: Account, customer_id: str, lookup_key: str) -> Document:
    return {
        "id": account.references.token("ent_", customer_id, lookup_key),
        "object": "entitlements.active_entitlement",
        "feature": account.references.token("feat_", lookup_key),
        "livemode": False,
        "lookup_key": lookup_key,
    }
