"""The object that an event is about, and whether it concerns a pipeline."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import structlog

from engine_server.connectors.stripe.catalog import load_resources
from engine_server.connectors.stripe.events.api_version import is_safe
from engine_server.connectors.stripe.events.deletions import ends_object
from engine_server.connectors.stripe.events.event import Event
from engine_server.connectors.stripe.events.object_types import ObjectType, object_types
from engine_server.connectors.stripe.events.parts import Whole, whole_at, whole_of
from engine_server.connectors.stripe.events.revalidation import retrieve_path
from engine_server.connectors.stripe.events.scope import EventScope

log = structlog.get_logger()

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


class Ignored(Exception):
    """Why nothing is made of an event."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The object that an event is about.

    Attributes:
        kind: Its type; of a summary, that of what it sums up.
        id: Its id; of a summary, that of the customer.
        fields: The object as the event tells it; None when it must be fetched.
        url: Where it is fetched then, as a thin event says.
        path: Where it is retrieved otherwise; empty when no call does that.
        created: When it was made, in Unix seconds; None when that is not known.
        items: The rows that the items of its lists make, as far as the event tells: each with its
            stream.
        is_told: Whether the event holds or names it; False where it tells of a part alone.
        is_summary: Whether it sums up what a customer is entitled to.
        whole: The object that it is a part of, which is fetched besides; None when it is part of
            none, or of one that does not concern the pipeline.
    """

    kind: ObjectType
    id: str
    fields: dict[str, Any] | None
    url: str = ""
    path: str = ""
    created: int | None = None
    items: Sequence[tuple[str, str]] = ()
    is_told: bool = True
    is_summary: bool = False
    whole: "Subject | None" = None

    @classmethod
    def of(cls, event: Event, scope: EventScope) -> Self:
        """Return the object of an event: of a part that is no record itself, the whole.

        Raises:
            Ignored: It does not concern the pipeline, whichever streams are selected.
        """
        if None not in (event.livemode, scope.livemode) and event.livemode != scope.livemode:
            # Live endpoints of platforms are sent events of test mode as well
            # (https://docs.stripe.com/connect/webhooks).
            raise Ignored("it is of the other mode")
        if event.happening == _FORECAST:
            raise Ignored("there is no such invoice yet")
        whole = cls._whole(event, scope)
        try:
            part = cls._named_by(event, scope)
        except Ignored:
            if whole is None:
                raise
            return whole
        return dataclasses.replace(part, whole=whole)

    @property
    def streams(self) -> frozenset[str]:
        """The streams whose rows the event may change."""
        of_whole = self.whole.streams if self.whole is not None else ()
        return frozenset((self.kind.stream, *self.kind.items, *of_whole))

    def wanted(self, scope: EventScope) -> "list[Subject]":
        """The objects, of the part and the whole, that selected streams hold records of."""
        wanted = []
        if not scope.streams.keys().isdisjoint((self.kind.stream, *self.kind.items)):
            wanted.append(self)
        if self.whole is not None and self.whole.kind.stream in scope.streams:
            wanted.append(self.whole)
        return wanted

    @classmethod
    def to_fetch(cls, event: Event, scope: EventScope, whole: Whole) -> Self:
        """The whole that an event about one of its parts changes.

        Raises:
            Ignored: It does not concern the pipeline.
        """
        kind = _kind(event, scope, whole.type, whole.id)
        fields = {"id": whole.id, "object": whole.type}
        path = retrieve_path(kind, fields) or ""
        return cls(kind=kind, id=whole.id, fields=None, path=path, is_told=False)

    @classmethod
    def _whole(cls, event: Event, scope: EventScope) -> Self | None:
        if event.happening == _DISCONNECTED:
            # There is nothing left to fetch.
            return None
        if event.object is not None:
            whole = whole_of(event.happening, event.object, account=event.account)
        else:
            whole = whole_at(event.related.url) if event.related is not None else None
            # The part of an account need not lie within its URL.
            whole = whole or whole_of(event.happening, {}, account=event.account)
        if whole is None:
            return None
        try:
            return cls.to_fetch(event, scope, whole)
        except Ignored as reason:
            log.debug("event_whole_ignored", event_id=event.id, reason=str(reason))
            return None

    @classmethod
    def _named_by(cls, event: Event, scope: EventScope) -> Self:
        """The object that the event holds or names.

        Raises:
            Ignored: It does not concern the pipeline.
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
                gone = {"id": object_id, "object": object_type, "deleted": True}
                fields = gone if fields.get("deleted") is True else None
        if ends_object(event.happening, object_type):
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
    """Where the objects of a type belong.

    Raises:
        Ignored: This one does not concern the pipeline.
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
    """The type of the object, its id, its fields if the event has them, else its URL."""
    if event.happening == _DISCONNECTED and event.account is not None:
        gone = {"id": event.account, "object": _ACCOUNT, "deleted": True}
        return _ACCOUNT, event.account, gone, ""
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
    """When an object was made, where its list can be filtered by it."""
    resource = load_resources()[kind.stream]
    created = fields.get(resource.created_field)
    return created if resource.created_param and type(created) is int else None
