"""Changes to an account's objects, each with the events that Stripe sends for it.

Rules: https://docs.stripe.com/api and https://docs.stripe.com/api/events/types
"""

from collections.abc import Mapping
from typing import Any

from engine_server import exact_json
from tests.stripe_simulator import errors, subscription_items
from tests.stripe_simulator.accounts import Account
from tests.stripe_simulator.changes import (
    Document,
    merged,
    previous_attributes,
    without_list_facts,
)
from tests.stripe_simulator.creation import new_document, object_name
from tests.stripe_simulator.event_types import event_types
from tests.stripe_simulator.events import AUTOMATIC, Cause


def create(
    account: Account, stream: str, fields: Mapping[str, Any], cause: Cause = AUTOMATIC
) -> Document:
    """Make an object, and return it.

    Args:
        account: Account of the object.
        stream: Stream of the object.
        fields: Values of some fields; all others have defaults.
        cause: Request that creates the object.

    Raises:
        Refusal: The id is taken, or an object to which the fields refer does not exist.
        ValueError: The stream does not exist.
    """
    if stream == subscription_items.STREAM:
        subscription = _stored(account, "subscriptions", fields["subscription"])
        _change_items(account, subscription, dict(fields), cause)
        return subscription_items.items_of(
            account, _stored(account, "subscriptions", subscription["id"])
        )[0]
    document = new_document(
        stream, account.references, next(account.numbers), account.clock.second()
    )
    changes = dict(fields)
    items = changes.pop("items", None) if stream == "subscriptions" else None
    document = merged(document, changes)
    if account.objects(stream).get(document["id"]):
        raise errors.already_exists(document["object"], document["id"])
    if stream == "subscriptions":
        items = items or [{"price": item["price"]} for item in document["items"]["data"]]
        document["items"] = {"object": "list", "data": []}
        document["items"] = subscription_items.embedded(account, document, items)
    _put(account, stream, document)
    for event_type in event_types("created", None, document):
        account.events.record(event_type, exact_json.encode(document), None, cause)
    return document


def update(
    account: Account,
    stream: str,
    object_id: str,
    fields: Mapping[str, Any],
    cause: Cause = AUTOMATIC,
) -> Document:
    """Change an object, and return it; an update without any change makes no event.

    Raises:
        Refusal: The object, or an object to which the fields refer, does not exist.
    """
    if stream == subscription_items.STREAM:
        subscription = subscription_items.subscription_of(account, object_id)
        _change_items(account, subscription, {**fields, "id": object_id}, cause)
        return _stored(account, stream, object_id)
    before = _stored(account, stream, object_id)
    changes = dict(fields)
    items = changes.pop("items", None) if stream == "subscriptions" else None
    after = merged(before, changes)
    if items:
        after["items"] = subscription_items.embedded(account, before, items)
    return _replace(account, stream, before, after, cause)


def delete(account: Account, stream: str, object_id: str, cause: Cause = AUTOMATIC) -> Document:
    """Delete an object, and return its deleted form; cancel a subscription instead.

    Raises:
        Refusal: The object does not exist, or is an invoice that is not a draft.
    """
    if stream == "subscriptions":
        return _cancel(account, object_id, cause)
    if stream == subscription_items.STREAM:
        subscription = subscription_items.subscription_of(account, object_id)
        _change_items(account, subscription, {"id": object_id, "deleted": True}, cause)
        return _deleted(object_name(stream), object_id)
    document = _stored(account, stream, object_id)
    if stream == "invoices" and document["status"] != "draft":
        raise errors.no_draft()
    account.objects(stream).delete(object_id)
    if stream == "customers":
        account.deleted_customers.add(object_id)
    for event_type in event_types("deleted", document, document):
        account.events.record(event_type, exact_json.encode(document), None, cause)
    return _deleted(document["object"], object_id)


def deleted_customer(account: Account, object_id: str) -> bytes | None:
    """Return a deleted customer's JSON (https://docs.stripe.com/api/customers/retrieve).

    None when the id is not of a deleted customer: other deleted objects cannot be retrieved.
    """
    if object_id not in account.deleted_customers:
        return None
    return exact_json.encode(_deleted("customer", object_id))


def _cancel(account: Account, object_id: str, cause: Cause) -> Document:
    before = _stored(account, "subscriptions", object_id)
    if before["status"] == "canceled":
        raise errors.resource_missing(404, "subscription", object_id, "id")
    now = account.clock.second()
    after = before | {"status": "canceled", "canceled_at": now, "ended_at": now}
    _put(account, "subscriptions", after)
    for event_type in event_types("deleted", before, after):
        account.events.record(event_type, exact_json.encode(after), None, cause)
    return after


def _change_items(
    account: Account, subscription: Document, change: Mapping[str, Any], cause: Cause
) -> None:
    items = subscription_items.embedded(account, subscription, [change])
    _replace(account, "subscriptions", subscription, {**subscription, "items": items}, cause)


def _replace(
    account: Account, stream: str, before: Document, after: Document, cause: Cause
) -> Document:
    previous = previous_attributes(before, after)
    if not previous:
        return before
    if "updated" in before:
        after["updated"] = account.clock.second()
        previous = previous_attributes(before, after)
    _put(account, stream, after)
    if account.tells_bare_lists:
        previous = without_list_facts(previous)
    body = exact_json.encode(after)
    for event_type in event_types("updated", before, after):
        told = previous if event_type.endswith(".updated") else None
        account.events.record(event_type, body, told, cause)
    return after


def _put(account: Account, stream: str, document: Document) -> None:
    canceled = stream == "subscriptions" and document["status"] == "canceled"
    account.objects(stream).put(document, listed=not canceled)


def _stored(account: Account, stream: str, object_id: str) -> Document:
    found = account.objects(stream).get(object_id)
    if found is None:
        raise errors.resource_missing(404, object_name(stream), object_id, "id")
    document: Document = exact_json.decode(found.body)
    return document


def _deleted(name: str, object_id: str) -> Document:
    return {"id": object_id, "object": name, "deleted": True}
