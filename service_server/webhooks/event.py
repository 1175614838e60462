"""Head of a webhook event: the fields of its body that the inbox stores."""

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

import msgspec

from pipesync_rpc.errors import FieldViolation
from pipesync_server.json_values import has_more_values
from pipesync_server.request_check import MAX_INPUT_VALUES
from service_server.errors import InvalidRequest

# The values arrive from outside and are used in keys and logs, so their shape is checked.
_NAME = re.compile(r"[!-~]{1,255}", re.ASCII)
_FIELD = "delivery.body"


class _Fields(msgspec.Struct, gc=False):
    id: Any = None
    type: Any = None
    created: Any = None


_FIELDS = msgspec.json.Decoder(_Fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class EventHead:
    """The fields that snapshot and thin events have in common.

    https://docs.stripe.com/api/events/object, https://docs.stripe.com/api/v2/core/events/object

    Attributes:
        id: The event's id, ``evt_...``.
        type: The event's type, e.g. ``customer.updated``.
        created: The time of its creation, in UTC.
    """

    id: str
    type: str
    created: datetime

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Parse a body whose signature is verified.

        Raises:
            InvalidRequest: The body is no event; the error says why.
        """
        if has_more_values(body, MAX_INPUT_VALUES):
            # The engine would not decode it.
            raise _no_event(f"it has more than {MAX_INPUT_VALUES:,} values")
        try:
            fields = _decoded(body)
        except (ValueError, RecursionError):
            raise _no_event("it is not JSON") from None
        if not isinstance(fields, dict):
            raise _no_event("it is not a JSON object")
        for name in ("id", "type"):
            if not isinstance(fields.get(name), str) or not _NAME.fullmatch(fields[name]):
                raise _no_event(
                    f"its {name!r} must be text of 1 to 255 ASCII characters without spaces"
                )
        created = _time(fields.get("created"))
        if created is None:
            raise _no_event(
                "its 'created' must be a time of the years 1 to 9999 in UTC, as Unix seconds or"
                " ISO 8601 text"
            )
        return cls(id=fields["id"], type=fields["type"], created=created)


def is_event_id(text: str) -> bool:
    """Return whether a stored event can have this id."""
    return _NAME.fullmatch(text) is not None


def _decoded(body: bytes) -> Any:
    """Return the value of the body; of an object, those of its fields that identify an event."""
    if not body.isascii():
        # msgspec does not check the text that it skips.
        body.decode()
    try:
        return msgspec.structs.asdict(_FIELDS.decode(body))
    except msgspec.DecodeError:
        # msgspec refuses lone surrogates, which JSON may have
        # (https://www.rfc-editor.org/rfc/rfc8259, section 8.2), and other types.
        return json.loads(body.decode())


def _no_event(reason: str) -> InvalidRequest:
    return InvalidRequest([FieldViolation(_FIELD, f"must be an event: {reason}")])


def _time(created: Any) -> datetime | None:
    """Return a time of API v1, in Unix seconds, or of v2, as text; None if it is neither."""
    try:
        match created:
            case bool():
                return None
            case int():
                return datetime.fromtimestamp(created, UTC)
            case str():
                time = datetime.fromisoformat(created)
                if time.tzinfo is None:
                    return time.replace(tzinfo=UTC)
                # In the years 1 and 9999 an offset may lead to a time that no database holds.
                return time.astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        pass
    return None
