"""Events cursor: the position of a pipeline in an account's events, as a value and as JSON."""

import dataclasses
import re
from collections.abc import Collection, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Self

import msgspec
import orjson

from engine_server.errors import ConnectorError
from engine_server.gc_pause import gc_paused

# Stripe's list of events is eventually consistent: an event may appear after newer ones. Others
# stay five seconds behind
# (https://blog.sequin.io/finding-and-fixing-eventual-consistency-with-stripe-events) or a minute
# (https://github.com/estuary/connectors/pull/2731). Here each read repeats the last minute of the
# one before, which also makes up for a clock that differs from Stripe's.
OVERLAP = 60

# https://docs.stripe.com/api/events/list
KEPT_DAYS = 30
_DAY = 86_400
# A margin for the time to read the oldest events, in which no more of them may expire.
_KEPT_SECONDS = KEPT_DAYS * _DAY - 3_600

# Keeps the failing events in a cursor below 50 KiB.
MOST_FAILING = 100
MOST_REASON_CHARACTERS = 200

_NOTHING: Mapping[Any, Any] = MappingProxyType({})
_SECOND = re.compile(r"\d{1,15}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FailingEvent:
    """An event that failed for a reason of its own and is retried by the next poll.

    Attributes:
        type: The type, e.g. ``customer.updated``.
        created: The Unix second of its creation.
        attempts: The number of failures.
        reason: The reason of the last failure, truncated.
    """

    type: str
    created: int
    attempts: int
    reason: str

    def to_json(self) -> dict[str, Any]:
        """Return the fields that ``parse`` reads."""
        return {
            "type": self.type,
            "created": self.created,
            "attempts": self.attempts,
            "reason": self.reason[:MOST_REASON_CHARACTERS],
        }

    @classmethod
    def parse(cls, fields: Any) -> Self:
        """Return the value of these fields; raise unless ``to_json`` made them."""
        found = cls(
            type=fields["type"],
            created=fields["created"],
            attempts=fields["attempts"],
            reason=fields["reason"],
        )
        if [type(found.created), type(found.attempts)] != [int, int]:
            raise TypeError("a failing event has no time or no number of attempts")
        if [type(found.type), type(found.reason)] != [str, str]:
            raise TypeError("a failing event has no type or no reason")
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class EventCursor:
    """The events that are accounted for.

    Attributes:
        since: The Unix second that the next poll reads from. All events before it are applied, and
            when they were read, they were too old for others to appear later.
        applied: The ids of applied events that the next poll reads again, by the second of their
            creation.
        followed: The streams whose events these are. Events of other streams may have been missed.
        behind: The followed streams that were refused, and so are not as far: for each, the second
            that the next poll reads from. ``applied`` does not hold for them.
        failing: The failed events to retry, by id. They are among ``applied`` if the next poll
            reads them again.
        handled: The ids of failed events, kept or dead-lettered, in a second that is not fully
            accounted for, with that second. Unlike ``applied``, they hold for all streams.
    """

    since: int
    applied: Mapping[int, Collection[str]] = field(default_factory=lambda: _NOTHING)
    followed: AbstractSet[str] = frozenset()
    behind: Mapping[str, int] = field(default_factory=lambda: _NOTHING)
    failing: Mapping[str, FailingEvent] = field(default_factory=lambda: _NOTHING)
    handled: Mapping[str, int] = field(default_factory=lambda: _NOTHING)

    @classmethod
    def parse(cls, data: str) -> Self | None:
        """Return the cursor that ``to_json`` wrote; None for an empty text.

        Raises:
            ConnectorError: ``data`` is not a cursor of this source.
        """
        if not data:
            return None
        try:
            with gc_paused():
                found = orjson.loads(data)
            # Outside "events": an older engine accepts no further field there.
            failing, handled = found.get("failing", {}), found.get("handled", {})
            return cls(
                **_fields(**found["events"]),
                failing={name: FailingEvent.parse(each) for name, each in failing.items()},
                handled={name: int(second) for name, second in handled.items()},
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ConnectorError(
                "the checkpoint of all streams is not an events cursor of the Stripe source; "
                "reset the pipeline's state to begin anew"
            ) from error

    def to_json(self) -> str:
        """Return the cursor as compact JSON."""
        fields = {
            "since": self.since,
            "applied": {str(second): list(ids) for second, ids in sorted(self.applied.items())},
            "followed": sorted(self.followed),
            "behind": dict(sorted(self.behind.items())),
        }
        text: dict[str, Any] = {"events": fields}
        if self.failing:
            text["failing"] = {name: each.to_json() for name, each in self.failing.items()}
        if self.handled:
            text["handled"] = dict(self.handled)
        return msgspec.json.encode(text).decode()

    def days_old(self, now: int) -> int:
        """Return the whole days since the position of the cursor."""
        return (now - self.since) // _DAY

    def is_too_old(self, now: int) -> bool:
        """Return whether Stripe may have dropped events after the cursor.

        Args:
            now: The Unix second.
        """
        return _is_too_old(self.since, now)

    def lost(self, now: int) -> frozenset[str]:
        """Return the streams so far behind that Stripe may have dropped events of theirs."""
        return frozenset(
            stream for stream, position in self.behind.items() if _is_too_old(position, now)
        )

    def position(self, stream: str) -> int:
        """Return the second that a followed stream's events are read from next."""
        return self.behind.get(stream, self.since)

    def following(self, streams: Iterable[str]) -> "EventCursor":
        """Return the cursor that follows exactly these streams."""
        followed = frozenset(streams)
        behind = {name: second for name, second in self.behind.items() if name in followed}
        return dataclasses.replace(self, followed=followed, behind=behind)

    def after(
        self,
        before: int,
        applied: Mapping[int, Collection[str]],
        *,
        settled: int,
        behind: Mapping[str, int],
        failing: Mapping[str, FailingEvent] = _NOTHING,
        handled: Mapping[str, int] = _NOTHING,
    ) -> "EventCursor":
        """Return the cursor after more events are applied.

        Args:
            before: All listed events created before this second are applied.
            applied: The ids of the newly applied events, by second.
            settled: No more events created before this second will appear.
            behind: As the attribute.
            failing: As the attribute.
            handled: As the attribute.
        """
        since = max(self.since, min(before, settled))
        seconds = self.applied.keys() | applied.keys()
        met_again = {
            second: tuple(dict.fromkeys((*self.applied.get(second, ()), *applied.get(second, ()))))
            for second in seconds
            if second >= since
        }
        return dataclasses.replace(
            self,
            since=since,
            applied=met_again,
            behind=dict(behind),
            failing=dict(failing),
            handled=dict(handled),
        )


def _is_too_old(second: int, now: int) -> bool:
    return second < now - _KEPT_SECONDS


def _fields(since: Any, applied: Any, followed: Any, behind: Any) -> dict[str, Any]:
    """Return the attributes; raise unless ``to_json`` wrote them."""
    if type(since) is not int or not all(map(_SECOND.fullmatch, applied)):
        raise TypeError("since or a key of applied is no time")
    if not all(type(second) is int for second in behind.values()):
        raise TypeError("behind holds what is no time")
    named = [*followed, *(name for ids in applied.values() for name in ids)]
    if type(followed) is not list or not all(type(name) is str for name in named):
        raise TypeError("followed or applied holds what is no name")
    return {
        "since": since,
        "applied": {int(second): tuple(ids) for second, ids in applied.items()},
        "followed": frozenset(followed),
        "behind": behind,
    }
