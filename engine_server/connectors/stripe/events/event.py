"""One event, in whatever shape Stripe sent it."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

import structlog

from engine_server import exact_json
from engine_server.connectors.stripe.events.ids_only import ids_only
from engine_server.text import storable

log = structlog.get_logger()

# What a snapshot event calls "customer.created" is "v1.customer.created" as a thin one
# (https://docs.stripe.com/webhooks/migrate-snapshot-to-thin-events).
_THIN_PREFIX = "v1."
# What a protobuf Timestamp holds.
_FIRST_SECOND, _LAST_SECOND = -62_135_596_800, 253_402_300_799


class NotAnEvent(ValueError):
    """What came is no event of Stripe."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RelatedObject:
    """The object that a thin event is about, which it names and does not hold.

    Attributes:
        id: ``cus_...``
        type: What its ``object`` field says, e.g. ``v2.core.account``.
        url: Where it is read, as the event says.
    """

    id: str
    type: str
    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What of an event counts here, whichever API version it was rendered in.

    Snapshot events (https://docs.stripe.com/api/events/object) hold their object, thin ones
    (https://docs.stripe.com/api/v2/core/events/object) name it.

    Attributes:
        id: ``evt_...``
        type: As Stripe sent it, e.g. ``customer.updated`` or ``v1.customer.updated``.
        created: The Unix second in which it was made.
        api_version: What its object is rendered in; None when it does not say, as a thin event.
        account: The account that it is of, ``acct_...``; None when it does not say, as one of the
            account itself.
        livemode: None when it does not say.
        object: The object as it was then; None in a thin event.
        previous: What of the object was otherwise before.
        related: The object of a thin event; None in others, and where there is none.
        is_bare: Whether it is a snapshot event without its data, as the dead letter of one that
            Stripe showed no more.
    """

    id: str
    type: str
    created: int
    api_version: str | None
    account: str | None
    livemode: bool | None
    object: dict[str, Any] | None
    previous: Mapping[str, Any]
    related: RelatedObject | None
    is_bare: bool = False

    @classmethod
    def parse(cls, sent: bytes | Mapping[str, Any]) -> Self:
        """Reads an event.

        Args:
            sent: Its JSON, or what was decoded of it. That is not copied: the event's object is the
                one in it.

        Raises:
            NotAnEvent: It is none.
        """
        fields = _fields(sent)
        event_id, event_type = fields.get("id"), fields.get("type")
        created = _unix_seconds(fields.get("created"))
        if not isinstance(event_id, str) or not isinstance(event_type, str) or created is None:
            raise NotAnEvent("it lacks an id, a type or a creation time")
        if not (event_id and event_id.isascii() and event_id.isprintable()):
            # Ids go into cursors, logs and keys, which hold no lone surrogates and no NUL.
            raise NotAnEvent("its id is not printable ASCII")
        data = fields.get("data")
        data = data if isinstance(data, dict) else {}
        held, previous = data.get("object"), data.get("previous_attributes")
        livemode, api_version = fields.get("livemode"), fields.get("api_version")
        return cls(
            id=event_id,
            # It goes into cursors and dead letters.
            type=storable(event_type),
            created=created,
            api_version=api_version if isinstance(api_version, str) else None,
            account=_account(fields),
            livemode=livemode if isinstance(livemode, bool) else None,
            object=held if isinstance(held, dict) else None,
            previous=previous if isinstance(previous, dict) else {},
            related=_related(fields.get("related_object")),
            is_bare=fields.get("object") == "event" and "data" not in fields,
        )

    @property
    def happening(self) -> str:
        """What happened, called the same in snapshot and thin events: ``customer.updated``."""
        return self.type.removeprefix(_THIN_PREFIX)

    def without_object(self) -> Self:
        """Return the event with nothing of the object that it holds."""
        return dataclasses.replace(self, object=None, previous={})

    def with_ids_only(self) -> Self:
        """Return the event with what of its object is the same in every API version."""
        return dataclasses.replace(
            self,
            object=None if self.object is None else ids_only(self.object),
            previous=ids_only(self.previous),
        )


def log_event(ingress: str, event: Event) -> None:
    """Tells that an event came in.

    Args:
        ingress: The way that it came: ``polling``, ``webhook``, ``websocket`` or ``inputs``.
        event: What came.
    """
    log.info("event_received", ingress=ingress, event_id=event.id, event_type=event.type)


def _fields(sent: bytes | Mapping[str, Any]) -> Mapping[str, Any]:
    if not isinstance(sent, bytes):
        return sent
    try:
        fields = exact_json.decode(sent)
    except ValueError as error:
        raise NotAnEvent("it is not JSON") from error
    if not isinstance(fields, dict):
        raise NotAnEvent("it is not a JSON object")
    return fields


def _unix_seconds(created: object) -> int | None:
    """A time of v1, in Unix seconds, or of v2, as text; None outside the years 1 to 9999."""
    if type(created) is int:
        return created if _FIRST_SECOND <= created <= _LAST_SECOND else None
    try:
        return int(datetime.fromisoformat(str(created)).timestamp())
    except ValueError:
        return None


def _account(fields: Mapping[str, Any]) -> str | None:
    """The account, as v1 names it or as the last part of v2's context.

    An account inside an organization is ``org_.../acct_...``
    (https://docs.stripe.com/context).
    """
    named = fields.get("account") or fields.get("context")
    return named.rpartition("/")[2] if isinstance(named, str) else None


def _related(named: object) -> RelatedObject | None:
    match named:
        case {"id": str(object_id), "type": str(object_type), "url": str(url)}:
            return RelatedObject(id=object_id, type=object_type, url=url)
    return None
