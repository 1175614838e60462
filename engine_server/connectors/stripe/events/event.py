"""Stripe events, in any of their shapes."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import msgspec
import structlog

from engine_server import exact_json
from engine_server.connectors.stripe.events.ids_only import ids_only
from engine_server.exact_json import TooLarge
from engine_server.text import storable
from pipesync_server.event_time import parse_event_time
from pipesync_server.request_check import MAX_INPUT_VALUES

_log = structlog.get_logger(__name__)

# The snapshot event "customer.created" is "v1.customer.created" as a thin one
# (https://docs.stripe.com/webhooks/migrate-snapshot-to-thin-events).
_THIN_PREFIX = "v1."
# The range of a protobuf Timestamp.
_FIRST_SECOND, _LAST_SECOND = -62_135_596_800, 253_402_300_799

# The most values of an event; one of Stripe has up to 2,000.
MAX_VALUES = MAX_INPUT_VALUES
_LACKS_FIELDS = "it lacks an id, a type or a creation time"


class NotAnEvent(ValueError):
    """The data are no Stripe event."""


class EventTooLarge(NotAnEvent):
    """The event has more values than are decoded, and far more than those of Stripe."""


class _Head(msgspec.Struct, gc=False):
    id: str | None = None
    type: str | None = None
    created: int | float | str | None = None


class _ObjectOutline(msgspec.Struct, gc=False):
    id: str | None = None
    object: str | None = None


class _DataOutline(msgspec.Struct, gc=False):
    object: _ObjectOutline | None = None


class _Outline(_Head, gc=False):
    account: str | None = None
    context: str | None = None
    livemode: bool | None = None
    api_version: str | None = None
    data: _DataOutline | None = None


_HEADS = msgspec.json.Decoder(_Head)
_OUTLINES = msgspec.json.Decoder(_Outline)


@dataclass(frozen=True, slots=True, kw_only=True)
class EventHead:
    """The fields that identify an event, read without decoding the others.

    Attributes:
        id: As in ``Event``.
        type: As in ``Event``.
        created: As in ``Event``.
    """

    id: str
    type: str
    created: int

    @classmethod
    def parse(cls, sent: bytes) -> Self:
        """Parse the JSON of an event of any size.

        Raises:
            NotAnEvent: The data are no event.
        """
        try:
            head = exact_json.decode_part(sent, _HEADS)
        except msgspec.ValidationError:
            raise _unlike_event(sent) from None
        except ValueError as error:
            raise NotAnEvent("it is not JSON") from error
        return cls.of(head.id, head.type, head.created)

    @classmethod
    def of(cls, event_id: object, event_type: object, created: object) -> Self:
        """Check the fields of an event.

        Raises:
            NotAnEvent: A field has another type, or is not one of Stripe's.
        """
        second = _unix_seconds(created)
        if not isinstance(event_id, str) or not isinstance(event_type, str) or second is None:
            raise NotAnEvent(_LACKS_FIELDS)
        if not (event_id and event_id.isascii() and event_id.isprintable()):
            # Ids go into cursors, logs and keys, which cannot hold lone surrogates or NUL.
            raise NotAnEvent("its id is not printable ASCII")
        # The type goes into cursors and dead letters.
        return cls(id=event_id, type=storable(event_type), created=second)


@dataclass(frozen=True, slots=True, kw_only=True)
class RelatedObject:
    """The object of a thin event, which names it without holding it.

    Attributes:
        id: ``cus_...``
        type: The value of its ``object`` field, e.g. ``v2.core.account``.
        url: The URL to read it from, as the event gives it.
    """

    id: str
    type: str
    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """The relevant parts of an event, in any API version.

    Snapshot events (https://docs.stripe.com/api/events/object) hold their object, thin ones
    (https://docs.stripe.com/api/v2/core/events/object) name it.

    Attributes:
        id: ``evt_...``
        type: The type as Stripe sent it, e.g. ``customer.updated`` or ``v1.customer.updated``.
        created: The Unix second of its creation.
        api_version: The version of its object; None if absent, as in a thin event.
        account: The account of the event, ``acct_...``; None if absent, as in events of the account
            itself.
        livemode: None if absent.
        object: The object at the time of the event; None in a thin event.
        previous: The former values of changed fields.
        related: The object of a thin event; None in others, and if there is none.
        is_bare: Whether it is a snapshot event without its data, such as the dead letter of an
            event that Stripe no longer showed.
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
        """Parse an event.

        Args:
            sent: The JSON, or its decoded value, which is not copied: the event's object is part of
                it.

        Raises:
            EventTooLarge: The JSON has more than ``MAX_VALUES`` values.
            NotAnEvent: The data are no event.
        """
        fields = _fields(sent)
        head = EventHead.of(fields.get("id"), fields.get("type"), fields.get("created"))
        data = fields.get("data")
        data = data if isinstance(data, dict) else {}
        held, previous = data.get("object"), data.get("previous_attributes")
        livemode, api_version = fields.get("livemode"), fields.get("api_version")
        return cls(
            id=head.id,
            type=head.type,
            created=head.created,
            api_version=api_version if isinstance(api_version, str) else None,
            account=_account(fields),
            livemode=livemode if isinstance(livemode, bool) else None,
            object=held if isinstance(held, dict) else None,
            previous=previous if isinstance(previous, dict) else {},
            related=_related(fields.get("related_object")),
            is_bare=fields.get("object") == "event" and "data" not in fields,
        )

    @classmethod
    def outline(cls, sent: bytes) -> Self:
        """Parse an event of any size, with the type and id of its object alone.

        Raises:
            NotAnEvent: The data are no event.
        """
        try:
            outline = exact_json.decode_part(sent, _OUTLINES)
        except ValueError as error:
            raise NotAnEvent("it lacks a field, or one has another type") from error
        return cls.parse(msgspec.to_builtins(outline))

    @property
    def unversioned_type(self) -> str:
        """The type that snapshot and thin events share, e.g. ``customer.updated``."""
        return self.type.removeprefix(_THIN_PREFIX)

    def without_object(self) -> Self:
        """Return the event without its object."""
        return dataclasses.replace(self, object=None, previous={})

    def with_ids_only(self) -> Self:
        """Return the event with the parts of its object that all API versions share."""
        return dataclasses.replace(
            self,
            object=None if self.object is None else ids_only(self.object),
            previous=ids_only(self.previous),
        )


def refuse_large(sent: bytes) -> None:
    """Check that the JSON of an event has few enough values to be decoded.

    Raises:
        EventTooLarge: It has more than ``MAX_VALUES`` values.
    """
    try:
        exact_json.refuse_many_values(sent, MAX_VALUES)
    except TooLarge as error:
        raise EventTooLarge(str(error)) from None


def log_event(ingress: str, event: Event | EventHead) -> None:
    """Log that an event was received.

    Args:
        ingress: Where it arrived: ``polling``, ``webhook``, ``websocket`` or ``inputs``.
        event: The event.
    """
    _log.info("event_received", ingress=ingress, event_id=event.id, event_type=event.type)


def _fields(sent: bytes | Mapping[str, Any]) -> Mapping[str, Any]:
    if not isinstance(sent, bytes):
        return sent
    try:
        fields = exact_json.decode(sent, max_values=MAX_VALUES)
    except TooLarge as error:
        EventHead.parse(sent)
        raise EventTooLarge(str(error)) from None
    except ValueError as error:
        raise NotAnEvent("it is not JSON") from error
    if not isinstance(fields, dict):
        raise NotAnEvent("it is not a JSON object")
    return fields


def _unlike_event(sent: bytes) -> NotAnEvent:
    is_object = exact_json.type_of(sent) is dict
    return NotAnEvent(_LACKS_FIELDS if is_object else "it is not a JSON object")


def _unix_seconds(created: object) -> int | None:
    """Return the Unix second of a v1 or v2 time; None outside the years 1 to 9999."""
    if type(created) is int:
        return created if _FIRST_SECOND <= created <= _LAST_SECOND else None
    time = parse_event_time(created)
    return None if time is None else int(time.timestamp())


def _account(fields: Mapping[str, Any]) -> str | None:
    """Return the account, as v1 names it or as the last part of v2's context.

    An account inside an organization is ``org_.../acct_...`` (https://docs.stripe.com/context).
    """
    named = fields.get("account") or fields.get("context")
    return named.rpartition("/")[2] if isinstance(named, str) else None


def _related(named: object) -> RelatedObject | None:
    match named:
        case {"id": str(object_id), "type": str(object_type), "url": str(url)}:
            return RelatedObject(id=object_id, type=object_type, url=url)
    return None
