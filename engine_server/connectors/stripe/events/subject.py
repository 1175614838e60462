"""The object that an event is about, and whether it concerns a pipeline."""

from dataclasses import dataclass
from typing import Any, Self

from engine_server.connectors.stripe.events.deletions import ends_object
from engine_server.connectors.stripe.events.event import Event
from engine_server.connectors.stripe.events.object_types import ObjectType, object_types
from engine_server.connectors.stripe.events.scope import EventScope

# Tells what an invoice would be like that is not there yet, some with an id, some without one.
_FORECAST = "invoice.upcoming"
# Holds the application; it is the account named in the event that is connected no more
# (https://docs.stripe.com/connect/webhooks).
_DISCONNECTED = "account.application.deauthorized"
# Connected accounts are objects of their platform: events about them name them as their account.
_ACCOUNT = "account"
_ACCOUNT_TYPES = frozenset({_ACCOUNT, "v2.core.account"})
# Tells of all that a customer is entitled to at once, by no id of its own
# (https://docs.stripe.com/billing/entitlements#webhooks).
_SUMMARY = "entitlements.active_entitlement_summary"
_ENTITLEMENT = "entitlements.active_entitlement"
# A discount is part of what it is given to. When it ends, no other event need tell: those of a part
# are none of the whole (https://docs.stripe.com/api/events/types).
_DISCOUNT = "discount"
# What it can be given to, as it names it (https://docs.stripe.com/api/discounts/object).
_DISCOUNTED = ("subscription", "customer")


class Ignored(Exception):
    """Why nothing is made of an event."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The object that an event is about.

    Attributes:
        kind: Its type; of a summary, that of what it sums up.
        id: Its id; of a summary, that of the customer.
        fields: The object as the event tells it; None when it must be fetched.
        url: Where it is fetched then, as the event says.
        is_summary: Whether it sums up what a customer is entitled to.
    """

    kind: ObjectType
    id: str
    fields: dict[str, Any] | None
    url: str = ""
    is_summary: bool = False

    @classmethod
    def of(cls, event: Event, scope: EventScope) -> Self:
        """What an event is about.

        Raises:
            Ignored: It does not concern the pipeline, whichever streams are selected.
        """
        if None not in (event.livemode, scope.livemode) and event.livemode != scope.livemode:
            # Live endpoints of platforms are sent events of test mode as well
            # (https://docs.stripe.com/connect/webhooks).
            raise Ignored("it is of the other mode")
        if event.happening == _FORECAST:
            raise Ignored("there is no such invoice yet")
        object_type, object_id, fields, url = _named(event)
        is_about_account = object_type in _ACCOUNT_TYPES and object_id == event.account
        if event.account not in (None, scope.account_id) and not (
            scope.is_platform and is_about_account
        ):
            raise Ignored(f"it is of account {event.account}")
        if object_type == _ACCOUNT and object_id == scope.account_id:
            # https://docs.stripe.com/api/accounts/list
            raise Ignored("the account itself is not among those connected to it")
        kind = object_types().get(object_type)
        if kind is None:
            raise Ignored(f"no stream has objects of type {object_type}")
        if not object_id:
            raise Ignored("its object has no id")
        if ends_object(event.happening, object_type):
            fields = {**(fields or {"id": object_id, "object": object_type}), "deleted": True}
        return cls(
            kind=kind,
            id=object_id,
            fields=fields,
            url=url,
            is_summary=fields is not None and fields.get("object") == _SUMMARY,
        )


def _named(event: Event) -> tuple[str, str, dict[str, Any] | None, str]:
    """The type of the object, its id, its fields if the event has them, else its URL."""
    if event.happening == _DISCONNECTED and event.account is not None:
        gone = {"id": event.account, "object": _ACCOUNT, "deleted": True}
        return _ACCOUNT, event.account, gone, ""
    if event.object is not None:
        if event.object.get("object") == _DISCOUNT:
            return _discounted(event.object)
        if event.object.get("object") == _SUMMARY:
            customer = event.object.get("customer")
            return _ENTITLEMENT, customer if isinstance(customer, str) else "", event.object, ""
        object_type, object_id = event.object.get("object"), event.object.get("id")
        return (
            object_type if isinstance(object_type, str) else "",
            object_id if isinstance(object_id, str) else "",
            event.object,
            "",
        )
    if event.related is not None:
        return event.related.type, event.related.id, None, event.related.url
    raise Ignored("it names no object")


def _discounted(discount: dict[str, Any]) -> tuple[str, str, None, str]:
    for object_type in _DISCOUNTED:
        object_id = discount.get(object_type)
        if isinstance(object_id, str):
            path = object_types()[object_type].path
            return object_type, object_id, None, f"{path}/{object_id}"
    raise Ignored("its discount is part of no object")
