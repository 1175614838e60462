"""Items of a subscription: objects with a list of their own that the subscription also contains.

Rules: https://docs.stripe.com/api/subscriptions/update and /api/subscription_items
"""

from collections.abc import Mapping, Sequence
from typing import Any

from engine_server import exact_json
from tests.stripe_simulator import errors
from tests.stripe_simulator.accounts import Account
from tests.stripe_simulator.changes import merged
from tests.stripe_simulator.creation import new_document
from tests.stripe_simulator.seeds.document import Document

STREAM = "subscription_items"


def embedded(
    account: Account, subscription: Mapping[str, Any], changes: Sequence[Mapping[str, Any]]
) -> Document:
    """Return the list to embed in the subscription after the changes; its own URL lists all items.

    Args:
        account: Account of the subscription.
        subscription: Subscription before the changes.
        changes: For each item its ``id`` (none for a new one) and ``price``, ``quantity``,
            ``metadata``, or ``deleted``.

    Raises:
        Refusal: The subscription has no such item.
    """
    items = {item["id"]: item for item in items_of(account, subscription)}
    for change in changes:
        item_id = change.get("id")
        if item_id is None:
            item = _new_item(account, subscription["id"], change)
            items = {item["id"]: item, **items}
        elif item_id not in items:
            raise errors.resource_missing(400, "subscription_item", item_id, "items[0][id]")
        elif change.get("deleted") in (True, "true"):
            del items[item_id]
        else:
            items[item_id] = merged(items[item_id], _fields(account, change))
    objects = account.objects(STREAM)
    for item in items_of(account, subscription):
        if item["id"] not in items and objects.get(item["id"]):
            objects.delete(item["id"])
    for item in reversed(items.values()):
        objects.put(item)
    return account.nested.put(_url(subscription["id"]), list(items.values()))


def serve(account: Account, subscription: Mapping[str, Any]) -> None:
    """Serve the initial items of a subscription, in lists and by id."""
    items = subscription["items"]["data"]
    for item in items:
        account.objects(STREAM).put(item)
    account.nested.put(_url(subscription["id"]), items)


def items_of(account: Account, subscription: Mapping[str, Any]) -> list[Document]:
    """Return all items, newest first."""
    url = _url(subscription["id"])
    return account.nested.documents(url) or list(subscription["items"]["data"])


def subscription_of(account: Account, item_id: str) -> Document:
    """Return the subscription that has the item.

    Raises:
        Refusal: The item does not exist.
    """
    item = account.objects(STREAM).get(item_id)
    if item is None:
        raise errors.resource_missing(404, "subscription_item", item_id, "id")
    subscription = account.objects("subscriptions").get(
        exact_json.decode(item.body)["subscription"]
    )
    assert subscription is not None
    document: Document = exact_json.decode(subscription.body)
    return document


def _new_item(account: Account, subscription_id: str, change: Mapping[str, Any]) -> Document:
    number, created = next(account.numbers), account.clock.second()
    template = new_document("subscriptions", account.references, number, created)
    [item] = template["items"]["data"]
    fields = {"quantity": 1, **_fields(account, change)}
    return merged(item, {**fields, "subscription": subscription_id})


def _fields(account: Account, change: Mapping[str, Any]) -> Document:
    """Return a change as fields of the item: the whole price instead of its id."""
    fields = {name: value for name, value in change.items() if name not in ("id", "deleted")}
    if "quantity" in fields:
        fields["quantity"] = int(fields["quantity"])
    if isinstance(price_id := fields.get("price"), str):
        stored = account.objects("prices").get(price_id)
        if stored is None:
            raise errors.resource_missing(400, "price", price_id, "items[0][price]")
        fields["price"] = exact_json.decode(stored.body)
    return fields


def _url(subscription_id: str) -> str:
    return f"/v1/subscription_items?subscription={subscription_id}"
