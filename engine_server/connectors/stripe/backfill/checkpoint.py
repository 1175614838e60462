"""Checkpoint of a stream's backfill, as a value and as JSON."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import orjson
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct

from engine_server.connectors.stripe.lists.ranges import SETTLING_SECONDS, Range, remaining_ranges
from engine_server.errors import ConnectorError
from engine_server.gc_pause import gc_paused

_RANGE_FIELDS = {
    "gte": {
        "type": "integer",
        "description": "Inclusive lower bound in Unix seconds; absent if there is none.",
    },
    "lt": {
        "type": "integer",
        "description": "Exclusive upper bound in Unix seconds; absent if there is none.",
    },
}

_BOUND_TYPES: Mapping[str, type] = {"gte": int, "lt": int}
_RANGE_TYPES: Mapping[str, type] = {
    **_BOUND_TYPES,
    "cursor": str,
    "compared_from": int,
}

# Far above any real number: each page copies all remaining ranges.
_MOST_REMAINING = 2_000

CHECKPOINT_SCHEMA = {
    "type": "object",
    "description": "Progress of a stream's backfill: everything in accounted_range is read "
    "except the ranges in remaining.",
    "properties": {
        "accounted_range": {
            "type": "object",
            "description": "The time range that the backfill covers, by creation time of the "
            "objects. It ends when the newest objects were read, if that is earlier than "
            "requested.",
            "properties": _RANGE_FIELDS,
            "additionalProperties": False,
        },
        "remaining": {
            "type": "array",
            "maxItems": _MOST_REMAINING,
            "description": "The ranges still to be read. A range without bounds is the "
            "unfiltered list. A range that ends after accounted_range lay ahead in time and is "
            "left to the next run.",
            "items": {
                "type": "object",
                "properties": {
                    **_RANGE_FIELDS,
                    "cursor": {
                        "type": "string",
                        "description": "The next page starts after this object (or is this page "
                        "token); absent if no page of the range was read.",
                    },
                    "compared_from": {
                        "type": "integer",
                        "description": "While a run reconciles: objects created in this Unix "
                        "second or later have been compared with the destination's records.",
                    },
                },
                "additionalProperties": False,
            },
        },
        "record_count": {
            "type": "integer",
            "minimum": 0,
            "description": "Records read so far, which count towards backfill_limit.",
        },
        "backfill_lt": {
            "type": "integer",
            "description": "The end of the first time range in Unix seconds. Objects created "
            "later are not counted in record_count, and are read regardless of backfill_limit.",
        },
    },
    "required": ["accounted_range", "remaining"],
    "additionalProperties": False,
}


def checkpoint_schema() -> Struct:
    """Return the JSON Schema of a checkpoint, for the source's spec."""
    return ParseDict(CHECKPOINT_SCHEMA, Struct())


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The part of a stream's backfill that is still to be read.

    An immutable value, so that reading ahead cannot change a checkpoint that was emitted.

    Attributes:
        accounted: The window that the backfill covers. It ends where its newest objects were read,
            if that is earlier than requested; ``remaining`` then holds the part that lay ahead in
            time.
        remaining: The ranges still to be read.
        record_count: Records read so far, of objects created before ``backfill_lt``.
        backfill_lt: The end of the first window; None if it had no end.
    """

    accounted: Range
    remaining: tuple[Range, ...]
    record_count: int = 0
    backfill_lt: int | None = None

    @property
    def ahead(self) -> Range | None:
        """The part that lay ahead in time when the newest objects were read; None without one.

        It includes the last seconds before that time, in which objects may still appear. A range
        with a cursor may end as late, but its reading has passed that time.
        """
        end = self.accounted.lt
        if end is None:
            return None
        for part in self.remaining:
            if part.cursor is None and part.lt is not None and part.lt > end:
                return part
        return None

    @property
    def unread(self) -> tuple[Range, ...]:
        """The ranges to read now."""
        ahead = self.ahead
        if ahead is None:
            return self.remaining
        return tuple(part for part in self.remaining if part is not ahead)

    @property
    def window(self) -> Range:
        """The requested window, including a part that lies ahead in time."""
        ahead = self.ahead
        return self.accounted if ahead is None else Range(gte=self.accounted.gte, lt=ahead.lt)

    @property
    def is_untouched(self) -> bool:
        """Whether none of it has been read."""
        return self.remaining == (self.accounted,)

    def is_history(self, part: Range) -> bool:
        """Return whether a range belongs to the first window, and so counts towards a limit."""
        if self.backfill_lt is None or part.gte is None:
            return True
        return part.gte < self.backfill_lt - SETTLING_SECONDS

    def after(
        self,
        part: Range,
        left: Sequence[Range],
        record_count: int,
        read_until: int | None = None,
    ) -> "Checkpoint":
        """Return the checkpoint after a page of ``part``.

        Args:
            part: The range of the page, one of ``remaining``.
            left: The rest of the range, still to be read.
            record_count: The number of records on the page.
            read_until: The first Unix second that the page does not cover, if that may be before
                the end of the window.
        """
        at = self.remaining.index(part)
        after = dataclasses.replace(
            self,
            remaining=(*self.remaining[:at], *left, *self.remaining[at + 1 :]),
            record_count=self.record_count + (record_count if self.is_history(part) else 0),
        )
        return after if read_until is None else after._ending_at(read_until)

    def _ending_at(self, end: int) -> "Checkpoint":
        gte, lt = self.accounted.gte, self.accounted.lt
        if lt is None or end >= lt:
            return self
        begin = end - SETTLING_SECONDS
        if gte is not None:
            begin, end = max(begin, gte), max(end, gte)
        return dataclasses.replace(
            self,
            accounted=Range(gte=gte, lt=end),
            remaining=(Range(gte=begin, lt=lt), *self.remaining),
            # Later objects count towards no limit, as if the window had ended here.
            backfill_lt=None if self.backfill_lt is None else min(self.backfill_lt, end),
        )

    def to_json(self) -> str:
        """Return the checkpoint as compact JSON."""
        fields = {
            "accounted_range": self.accounted,
            "remaining": self.remaining,
            "record_count": self.record_count,
        }
        if self.backfill_lt is not None:
            fields["backfill_lt"] = self.backfill_lt
        return msgspec.json.encode(fields).decode()


def resume(
    stream: str, data: str, window: Range, *, begins_run: bool = False, is_guessed: bool = False
) -> Checkpoint:
    """Return the checkpoint to continue from.

    Args:
        stream: The name of the stream, for the error.
        data: The stored JSON text; empty at the start.
        window: The range to read now, which may differ from the one requested before.
        begins_run: Whether the part that lay ahead is read now. Otherwise, and if the window is the
            same, the next run reads it: a run whose end lies in the future would never finish.
        is_guessed: Whether the window ends by a clock that may be behind. If it ends before the
            time already read, the end requested before is used, and a new run reads the last
            seconds again. If it ends before it begins, it becomes its first second: only a request
            makes Stripe's time known.

    Raises:
        ConnectorError: ``data`` is not a checkpoint of this source.
    """
    stored = _parsed(stream, data) if data else None
    if is_guessed and window.gte is not None and window.is_empty:
        window = Range(gte=window.gte, lt=window.gte + 1)
    if stored is None or stored.is_untouched:
        remaining = () if window.is_empty else (window,)
        return Checkpoint(accounted=window, remaining=remaining, backfill_lt=window.lt)
    ahead = stored.ahead
    read = stored.accounted
    end = stored.window.lt
    if is_guessed and end is not None and not window.is_later_than(stored.window):
        window = Range(gte=window.gte, lt=end)
        if begins_run and ahead is None and read.lt is not None:
            read = Range(gte=read.gte, lt=read.lt - SETTLING_SECONDS)
    if ahead is not None and ahead.lt == window.lt and not begins_run:
        left = (ahead, *remaining_ranges(stored.window, stored.unread, window))
        accounted = Range(gte=window.gte, lt=stored.accounted.lt)
    else:
        left = remaining_ranges(read, stored.unread, window)
        accounted = window
    return Checkpoint(
        accounted=accounted,
        remaining=left,
        record_count=stored.record_count,
        backfill_lt=stored.backfill_lt,
    )


def accounts_for_nothing(stream: str, data: str) -> bool:
    """Return whether a stored checkpoint, if any, is that of an unread stream.

    Raises:
        ConnectorError: ``data`` is not a checkpoint of this source.
    """
    return not data or _parsed(stream, data).is_untouched


def _parsed(stream: str, data: str) -> Checkpoint:
    try:
        with gc_paused():
            found = orjson.loads(data)
        return _stored(**found)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConnectorError(
            f"the checkpoint of stream {stream} is not one of the Stripe source; "
            "reset the pipeline's state to read it from the start"
        ) from error


def _stored(
    accounted_range: Any, remaining: Any, record_count: Any = 0, backfill_lt: Any = None
) -> Checkpoint:
    """Return the checkpoint with these fields; raise if one does not match the schema."""
    if backfill_lt is not None and type(backfill_lt) is not int:
        raise TypeError("backfill_lt is no time")
    if type(remaining) is not list or len(remaining) > _MOST_REMAINING:
        raise TypeError("remaining is no list, or longer than any that this source makes")
    if type(record_count) is not int or record_count < 0:
        raise TypeError("record_count is no count")
    return Checkpoint(
        accounted=_range(accounted_range, _BOUND_TYPES),
        remaining=tuple(_range(part, _RANGE_TYPES) for part in remaining),
        record_count=record_count,
        backfill_lt=backfill_lt,
    )


def _range(fields: Any, types: Mapping[str, type]) -> Range:
    for name, value in fields.items():
        if type(value) is not types[name]:
            raise TypeError(f"{name} is no {types[name].__name__}")
    return Range(**fields)
