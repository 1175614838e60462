"""Where following an account's events stands, as a value and as JSON."""

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

# Stripe's list of events is eventually consistent: an event may show up after younger ones. Others
# stay five seconds behind (https://blog.sequin.io/finding-and-fixing-eventual-consistency-with-stripe-events)
# or a minute (https://github.com/estuary/connectors/pull/2731). Here the last minute before a read
# is read again by the next one, which also makes up for a clock that is not quite Stripe's.
OVERLAP = 60

# https://docs.stripe.com/api/events/list
KEPT_DAYS = 30
_DAY = 86_400
# Reading the oldest events takes its time, in which no more of them must be lost.
_KEPT_SECONDS = KEPT_DAYS * _DAY - 3_600

# What a cursor holds of failing events stays below 50 KiB.
MOST_FAILING = 100
MOST_REASON_CHARACTERS = 200

_NOTHING: Mapping[Any, Any] = MappingProxyType({})
_SECOND = re.compile(r"\d{1,15}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FailingEvent:
    """An event that failed by itself and is tried again by the next poll.

    Attributes:
        type: e.g. ``customer.updated``.
        created: The Unix second in which it was made.
        attempts: How many times it failed.
        reason: Why, the last time; cut.
    """

    type: str
    created: int
    attempts: int
    reason: str

    def to_json(self) -> dict[str, Any]:
        """Its fields, as ``parse`` reads them."""
        return {
            "type": self.type,
            "created": self.created,
            "attempts": self.attempts,
            "reason": self.reason[:MOST_REASON_CHARACTERS],
        }

    @classmethod
    def parse(cls, fields: Any) -> Self:
        """Reads what ``to_json`` made; fails when it is something else."""
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
    """What of the events is accounted for.

    Attributes:
        since: The Unix second that the next poll reads from. All events before it are applied, and
            were so old when they were read that no other was still to show up.
        applied: The ids of the events that are applied already, of those that the next poll meets
            again, by the second in which they were made.
        followed: The streams whose events these are. Of any other, events may have been missed.
        behind: Those of them that are not as far, as they were refused: the second that the next
            poll reads from for each. What is ``applied`` is not for them.
        failing: The events that failed by themselves and are tried again, by id. They are among
            ``applied`` where the next poll meets them again.
        handled: The ids of events that failed, kept or given up, of a second that is not accounted
            for as a whole yet, with that second. Unlike ``applied``, they are so for all streams.
    """

    since: int
    applied: Mapping[int, Collection[str]] = field(default_factory=lambda: _NOTHING)
    followed: AbstractSet[str] = frozenset()
    behind: Mapping[str, int] = field(default_factory=lambda: _NOTHING)
    failing: Mapping[str, FailingEvent] = field(default_factory=lambda: _NOTHING)
    handled: Mapping[str, int] = field(default_factory=lambda: _NOTHING)

    @classmethod
    def parse(cls, data: str) -> Self | None:
        """Reads what ``to_json`` wrote; None of the empty text.

        Raises:
            ConnectorError: ``data`` is not a cursor of this source.
        """
        if not data:
            return None
        try:
            found = orjson.loads(data)
            # Beside the events: an older engine takes no further field among them.
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
        """Its JSON text, without white space."""
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
        """How many whole days ago it stopped."""
        return (now - self.since) // _DAY

    def is_too_old(self, now: int) -> bool:
        """Whether events after it may be there no more.

        Args:
            now: The Unix second.
        """
        return _is_too_old(self.since, now)

    def lost(self, now: int) -> frozenset[str]:
        """The streams that are so far behind that events of them may be there no more."""
        return frozenset(
            stream for stream, position in self.behind.items() if _is_too_old(position, now)
        )

    def position(self, stream: str) -> int:
        """The second that a followed stream's events are read from next."""
        return self.behind.get(stream, self.since)

    def following(self, streams: Iterable[str]) -> "EventCursor":
        """The cursor that follows these and no other streams."""
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
        """The cursor once more events are applied.

        Args:
            before: All that were listed of those made before this second are applied.
            applied: The ids of those that were not before, by second.
            settled: Of those made before this second, no more will show up.
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
    """The attributes; fails when one is not what ``to_json`` writes."""
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
