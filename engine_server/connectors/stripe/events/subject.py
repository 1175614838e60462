"""Subject of an event: the object that it is about."""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import structlog

from engine_server.connectors.stripe.catalog.object_types import ObjectType, object_types
from engine_server.connectors.stripe.catalog.streams import load_resources
from engine_server.connectors.stripe.events.api_version import is_safe
from engine_server.connectors.stripe.events.deletions import ends_object
from engine_server.connectors.stripe.events.event import Event
from engine_server.connectors.stripe.events.failure import EventFailed
from engine_server.connectors.stripe.events.parts import Whole, whole_at, whole_of
from engine_server.connectors.stripe.events.revalidation import retrieve_path
from engine_server.connectors.stripe.events.scope import EventScope

_log = structlog.get_logger(__name__)

# https://docs.stripe.com/upgrades#what-changes-does-stripe-consider-to-be-backward-compatible gives
# 255 for ids that Stripe makes; those that users choose may be longer.
_MOST_ID_BYTES = 5000
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")

# Shows a future invoice, sometimes with an id, sometimes without one.
_FORECAST = "invoice.upcoming"
# Holds the application; the account named in the event is the disconnected one
# (https://docs.stripe.com/connect/webhooks).
_DISCONNECTED = "account.application.deauthorized"
# Connected accounts are objects of their platform; events about them name them as their account.
_ACCOUNT = "account"
_ACCOUNT_TYPES = frozenset({_ACCOUNT, "v2.core.account"})
# Reports all entitlements of a customer together, without an id of its own
# (https://docs.stripe.com/billing/entitlements#webhooks).
_SUMMARY = "entitlements.active_entitlement_summary"
_ENTITLEMENT = "entitlements.active_entitlement"


class Ignored(Exception):
    """The reason why an event is not applied."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The object that an event is about.

    Attributes:
        kind: The type of the object; of a summary, the type that it sums up.
        id: The id of the object; of a summary, the id of the customer.
        fields: The object as in the event; None if it must be fetched.
        url: The URL to fetch it from, as a thin event gives it.
        path: The path to retrieve it from otherwise; empty if no call exists.
        created: The creation time in Unix seconds; None if unknown.
        items: The rows of the items in its lists that the event shows, each with its stream.
        is_named_by_event: Whether the event holds or names it; False if it shows only a part of it.
        is_summary: Whether it sums up the entitlements of a customer.
        whole: The object that it is a part of, which is fetched as well; None if it is part of
            none, or of one that does not concern the pipeline.
    """

    kind: ObjectType
    id: str
    fields: dict[str, Any] | None
    url: str = ""
    path: str = ""
    created: int | None = None
    items: Sequence[tuple[str, str]] = ()
    is_named_by_event: bool = True
    is_summary: bool = False
    whole: "Subject | None" = None

    @classmethod
    def of(cls, event: Event, scope: EventScope) -> Self:
        """Return the object of an event; the whole, if the event's part is no record itself.

        Raises:
            Ignored: The event does not concern the pipeline, regardless of the selected streams.
        """
        if None not in (event.livemode, scope.livemode) and event.livemode != scope.livemode:
            # Live endpoints of platforms receive events of test mode as well
            # (https://docs.stripe.com/connect/webhooks).
            raise Ignored("it is of the other mode")
        if event.unversioned_type == _FORECAST:
            raise Ignored("there is no such invoice yet")
        whole = cls._whole(event, scope)
        try:
            part = cls._named_by(event, scope)
        except Ignored:
            if whole is None:
                raise
            return whole
        return dataclasses.replace(part, whole=whole)

    def require_id(self) -> None:
        """Check that the id can be one of Stripe's.

        Users choose the ids of some objects, such as coupons: most characters are possible.

        Raises:
            EventFailed: The id is invalid, and no request can be made with it.
        """
        if len(self.id.encode(errors="surrogatepass")) > _MOST_ID_BYTES:
            raise EventFailed(
                f"the id of its {self.kind.name} has {len(self.id)} characters, and Stripe's have "
                f"{_MOST_ID_BYTES} bytes at most"
            )
        if _CONTROL.search(self.id):
            raise EventFailed(f"the id of its {self.kind.name} holds control characters")

    @property
    def streams(self) -> frozenset[str]:
        """The streams whose rows the event may change."""
        of_whole = self.whole.streams if self.whole is not None else ()
        return frozenset((self.kind.stream, *self.kind.items, *of_whole))

    def wanted(self, scope: EventScope) -> "list[Subject]":
        """Return the objects, part and whole, whose records selected streams hold."""
        wanted = []
        if not scope.streams.keys().isdisjoint((self.kind.stream, *self.kind.items)):
            wanted.append(self)
        if self.whole is not None and self.whole.kind.stream in scope.streams:
            wanted.append(self.whole)
        return wanted

    @classmethod
    def to_fetch(cls, event: Event, scope: EventScope, whole: Whole) -> Self:
        """Return the whole that an event about one of its parts changes.

        Raises:
            Ignored: The object does not concern the pipeline.
        """
        kind = _kind(event, scope, whole.type, whole.id)
        fields = {"id": whole.id, "object": whole.type}
        path = retrieve_path(kind, fields) or ""
        return cls(kind=kind, id=whole.id, fields=None, path=path, is_named_by_event=False)

    @classmethod
    def _whole(cls, event: Event, scope: EventScope) -> Self | None:
        if event.unversioned_type == _DISCONNECTED:
            # The disconnected account can no longer be fetched.
            return None
        if event.object is not None:
            whole = whole_of(event.unversioned_type, event.object, account=event.account)
        else:
            whole = whole_at(event.related.url) if event.related is not None else None
            # The URL of an account's part may lie outside the account's URL.
            whole = whole or whole_of(event.unversioned_type, {}, account=event.account)
        if whole is None:
            return None
        try:
            return cls.to_fetch(event, scope, whole)
        except Ignored as reason:
            _log.debug("event_whole_ignored", event_id=event.id, reason=str(reason))
            return None

    @classmethod
    def _named_by(cls, event: Event, scope: EventScope) -> Self:
        """Return the object that the event holds or names.

        Raises:
            Ignored: The object does not concern the pipeline.
        """
        object_type, object_id, fields, url = _named(event)
        kind = _kind(event, scope, object_type, object_id)
        is_summary = fields is not None and fields.get("object") == _SUMMARY
        path, created = "", None
        items: Sequence[tuple[str, str]] = ()
        if fields is not None and not is_summary:
            path = retrieve_path(kind, fields) or ""
        if fields is not None and fields is event.object:
            if not is_summary:
                created = _created(kind, fields)
                items = [row for row in _items(kind, fields) if row[0] in scope.streams]
            if not is_safe(event.api_version, scope.api_version):
                deleted = {"id": object_id, "object": object_type, "deleted": True}
                fields = deleted if fields.get("deleted") is True else None
        if ends_object(event.unversioned_type, object_type):
            fields = {**(fields or {"id": object_id, "object": object_type}), "deleted": True}
        return cls(
            kind=kind,
            id=object_id,
            fields=fields,
            url=url,
            path=path,
            created=created,
            items=items,
            is_summary=is_summary,
        )


def _kind(event: Event, scope: EventScope, object_type: str, object_id: str) -> ObjectType:
    """Return the kind of an object.

    Raises:
        Ignored: The object does not concern the pipeline.
    """
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
    return kind


def _named(event: Event) -> tuple[str, str, dict[str, Any] | None, str]:
    """Return the object's type, its id, and its fields if the event has them, else its URL."""
    if event.unversioned_type == _DISCONNECTED and event.account is not None:
        deleted = {"id": event.account, "object": _ACCOUNT, "deleted": True}
        return _ACCOUNT, event.account, deleted, ""
    if event.object is not None:
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


def _items(kind: ObjectType, fields: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for stream, field in kind.items.items():
        match fields.get(field):
            case {"data": list(items)}:
                for item in items:
                    if isinstance(item, dict) and isinstance(item.get("id"), str):
                        yield stream, item["id"]


def _created(kind: ObjectType, fields: dict[str, Any]) -> int | None:
    """Return the creation time of an object, if its list can be filtered by it."""
    resource = load_resources()[kind.stream]
    created = fields.get(resource.created_field)
    return created if resource.created_param and type(created) is int else None
