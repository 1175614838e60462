"""A stream's checkpoint: what of its backfill is accounted for, as a value and as JSON."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import orjson
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct

from engine_server.connectors.stripe.ranges import SETTLING_SECONDS, Range, reconcile
from engine_server.errors import ConnectorError

_RANGE_FIELDS = {
    "gte": {
        "type": "integer",
        "description": "Inclusive lower bound in Unix seconds; absent when there is none.",
    },
    "lt": {
        "type": "integer",
        "description": "Exclusive upper bound in Unix seconds; absent when there is none.",
    },
}

_BOUND_TYPES: Mapping[str, type] = {"gte": int, "lt": int}
_RANGE_TYPES: Mapping[str, type] = {
    **_BOUND_TYPES,
    "cursor": str,
    "compared_from": int,
}

CHECKPOINT_SCHEMA = {
    "type": "object",
    "description": "How far a stream's backfill has come: everything in accounted_range is read "
    "but for what remaining lists.",
    "properties": {
        "accounted_range": {
            "type": "object",
            "description": "The time that the backfill covers, by creation of the objects. Where "
            "more was asked for, it ends when the newest objects were read.",
            "properties": _RANGE_FIELDS,
            "additionalProperties": False,
        },
        "remaining": {
            "type": "array",
            "description": "What is still to be read. A range without bounds is the list as it is, "
            "not filtered by time. One that ends after accounted_range lay ahead in time: it is "
            "left to the next run.",
            "items": {
                "type": "object",
                "properties": {
                    **_RANGE_FIELDS,
                    "cursor": {
                        "type": "string",
                        "description": "The next page starts after this object (or is this page "
                        "token); absent when no page of the range was read.",
                    },
                    "compared_from": {
                        "type": "integer",
                        "description": "While a run reconciles: what was created in this Unix "
                        "second or later was compared with what the destination holds.",
                    },
                },
                "additionalProperties": False,
            },
        },
        "record_count": {
            "type": "integer",
            "minimum": 0,
            "description": "Records read so far, which backfill_limit is compared with.",
        },
        "backfill_lt": {
            "type": "integer",
            "description": "Where the first time range ended, in Unix seconds. What was made later "
            "is not counted in record_count, and read whatever backfill_limit says.",
        },
    },
    "required": ["accounted_range", "remaining"],
    "additionalProperties": False,
}


def checkpoint_schema() -> Struct:
    """The JSON Schema of a checkpoint, for the source's spec."""
    return ParseDict(CHECKPOINT_SCHEMA, Struct())


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What is left of a stream's backfill.

    It is a value: what is fetched ahead cannot change one that was emitted.

    Attributes:
        accounted: The window that the backfill covers. It ends where its newest objects were read,
            if that was earlier than asked: ``remaining`` then has the part that lay ahead.
        remaining: What is still to be read.
        record_count: Records read so far, of those made before ``backfill_lt``.
        backfill_lt: Where the first window ended; None when it had no end.
    """

    accounted: Range
    remaining: tuple[Range, ...]
    record_count: int = 0
    backfill_lt: int | None = None

    @property
    def ahead(self) -> Range | None:
        """The part that lay ahead in time when the newest objects were read; None without one.

        It begins with the last seconds before, in which objects may still have come up. What has a
        cursor may end as late, but is past that time.
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
        """The parts that are to be read now."""
        ahead = self.ahead
        if ahead is None:
            return self.remaining
        return tuple(part for part in self.remaining if part is not ahead)

    @property
    def window(self) -> Range:
        """What was asked for, whether it lies ahead or not."""
        ahead = self.ahead
        return self.accounted if ahead is None else Range(gte=self.accounted.gte, lt=ahead.lt)

    @property
    def is_untouched(self) -> bool:
        """Whether nothing of it was ever read."""
        return self.remaining == (self.accounted,)

    def is_history(self, part: Range) -> bool:
        """Whether a range was asked for from the first: only such ones count towards a limit."""
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
        """The checkpoint after a page of ``part``.

        Args:
            part: The range whose page it was, one of ``remaining``.
            left: What of it is still to be read.
            record_count: The records on the page.
            read_until: The Unix second of which the page shows nothing any more, if that may be
                before the end of the window.
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
            # What is made later counts towards no limit, as if the window had ended there.
            backfill_lt=None if self.backfill_lt is None else min(self.backfill_lt, end),
        )

    def to_json(self) -> str:
        """Its JSON text, without white space."""
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
    """The checkpoint to go on from.

    Args:
        stream: Whose it is, for the error.
        data: The stored JSON text; empty at the start.
        window: What is to be read now, perhaps not what was asked before.
        begins_run: Whether what lay ahead is read now. If not, and the same window is asked for, it
            is left to the next run: else no run whose end lies ahead would come to an end.
        is_guessed: Whether the window ends by a clock that may be behind. If it ends before what
            was read, the end that was asked for before counts, and a new run reads the last seconds
            again; if it ends before it begins, its first second counts. Without a request the time
            would never be learnt.

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
        left = (ahead, *reconcile(stored.window, stored.unread, window))
        accounted = Range(gte=window.gte, lt=stored.accounted.lt)
    else:
        left = reconcile(read, stored.unread, window)
        accounted = window
    return Checkpoint(
        accounted=accounted,
        remaining=left,
        record_count=stored.record_count,
        backfill_lt=stored.backfill_lt,
    )


def accounts_for_nothing(stream: str, data: str) -> bool:
    """Whether a stored checkpoint, if there is any, is that of a stream not read yet.

    Raises:
        ConnectorError: ``data`` is not a checkpoint of this source.
    """
    return not data or _parsed(stream, data).is_untouched


def _parsed(stream: str, data: str) -> Checkpoint:
    try:
        return _stored(**orjson.loads(data))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConnectorError(
            f"the checkpoint of stream {stream} is not one of the Stripe source; "
            "reset the pipeline's state to read it from the start"
        ) from error


def _stored(
    accounted_range: Any, remaining: Any, record_count: Any = 0, backfill_lt: Any = None
) -> Checkpoint:
    """The checkpoint with these fields; fails when one is not what the schema says."""
    if backfill_lt is not None and type(backfill_lt) is not int:
        raise TypeError("backfill_lt is no time")
    if type(remaining) is not list or type(record_count) is not int or record_count < 0:
        raise TypeError("remaining is no list, or record_count no count")
    return Checkpoint(
        accounted=_range(accounted_range, _BOUND_TYPES),
        remaining=tuple(_range(part, _RANGE_TYPES) for part in remaining),
        record_count=record_count,
        backfill_lt=backfill_lt,
    )


def _range(fields: Any, types: Mapping[str, type]) -> Range:
    for name, value in fields.items():
        if type(value) is not types[name]:
            raise TypeError(f"{name} is {value!r}")
    return Range(**fields)
