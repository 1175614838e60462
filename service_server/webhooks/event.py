"""What of a webhook's body the inbox needs to know."""

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

import orjson

from pipesync_rpc.errors import FieldViolation
from service_server.errors import InvalidRequest

# What comes in from outside ends up in keys and logs, so its shape is checked.
_NAME = re.compile(r"[!-~]{1,255}", re.ASCII)
_FIELD = "delivery.body"


@dataclass(frozen=True, slots=True, kw_only=True)
class EventHead:
    """The fields that snapshot and thin events have in common.

    https://docs.stripe.com/api/events/object, https://docs.stripe.com/api/v2/core/events/object

    Attributes:
        id: ``evt_...``
        type: e.g. ``customer.updated``.
        created: When it was made.
    """

    id: str
    type: str
    created: datetime

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Reads a body whose signature is known to be good.

        Raises:
            InvalidRequest: it is no event; says why.
        """
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
            raise _no_event("its 'created' must be a time, as Unix seconds or ISO 8601 text")
        return cls(id=fields["id"], type=fields["type"], created=created)


def _decoded(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        # It refuses lone surrogates, which JSON may have (https://www.rfc-editor.org/rfc/rfc8259,
        # section 8.2).
        return json.loads(body.decode())


def _no_event(reason: str) -> InvalidRequest:
    return InvalidRequest([FieldViolation(_FIELD, f"must be an event: {reason}")])


def _time(created: Any) -> datetime | None:
    """A time of v1, in Unix seconds, or of v2, as text."""
    try:
        match created:
            case bool():
                return None
            case int():
                return datetime.fromtimestamp(created, UTC)
            case str():
                time = datetime.fromisoformat(created)
                return time if time.tzinfo is not None else time.replace(tzinfo=UTC)
    except (ValueError, OverflowError, OSError):
        pass
    return None
