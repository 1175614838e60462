"""One poll's bookkeeping: which streams an event is applied for, and where the cursor is then."""

from collections import defaultdict
from collections.abc import Collection, Hashable
from collections.abc import Set as AbstractSet

from engine_server.connectors.stripe.events.cursor import (
    MOST_FAILING,
    OVERLAP,
    EventCursor,
    FailingEvent,
)

# How many times a polled event that fails by itself is tried, by successive polls.
MOST_ATTEMPTS = 5


class PollRound:
    """What is made of the events that one poll reads, oldest first.

    Attributes:
        cursor: What is applied and accounted for so far.
    """

    def __init__(
        self, cursor: EventCursor, *, committed: EventCursor, refused: AbstractSet[str]
    ) -> None:
        """Begins where the cursor is.

        Args:
            cursor: What polls before this one applied.
            committed: A cursor up to which everything is sure to be committed, for the streams that
                turn out to be refused. It follows these streams, too.
            refused: The streams that are refused; may grow meanwhile.
        """
        self.cursor = cursor
        self._began = cursor
        self._committed = committed
        self._refused = refused
        self._applied_before = frozenset(name for ids in cursor.applied.values() for name in ids)
        self._last_applied = max(cursor.applied, default=cursor.since - 1)
        # What late events were about: those of it that come after them are applied again.
        self._touched: set[Hashable] = set()
        self._applied: defaultdict[int, list[str]] = defaultdict(list)
        # The failing events that were tried again, with their streams.
        self._retried: dict[str, frozenset[str]] = {}
        # What is left of the failing ones if no stream is refused.
        self._failing = dict(cursor.failing)
        self._handled = dict(cursor.handled)

    @property
    def start(self) -> int | None:
        """The second to read from; None when no stream is to be followed now."""
        followed = self._began.followed - self._refused
        return min(map(self._began.position, followed), default=None)

    def apply(
        self, second: int, event_id: str, about: Hashable, streams: Collection[str]
    ) -> frozenset[str]:
        """The streams that an event is to be applied for: none when it was applied before.

        Args:
            second: When it was made.
            event_id: Its id.
            about: The object that it is about.
            streams: Those that hold records of the object.
        """
        began = self._began
        if event_id in self._failing or event_id in self._handled:
            return frozenset()
        followed = (began.followed - self._refused) & set(streams)
        wanted = {name for name in followed if second >= began.behind.get(name, second + 1)}
        current = followed - began.behind.keys()
        if current and second >= began.since:
            is_late = event_id not in self._applied_before
            # Without the latter, the older state that a late event tells would stay.
            if is_late or about in self._touched:
                wanted |= current
            if is_late and second <= self._last_applied:
                self._touched.add(about)
        if wanted:
            self._applied[second].append(event_id)
        return frozenset(wanted)

    def retry(self, event_id: str, about: Hashable, streams: Collection[str]) -> frozenset[str]:
        """The streams that a failing event is tried again for; none while one is refused.

        Args:
            event_id: One of the cursor's failing events.
            about: The object that it is about.
            streams: Those that hold records of the object.
        """
        followed = frozenset(self._began.followed & set(streams))
        if followed & self._refused:
            return frozenset()
        self._retried[event_id] = followed
        self._failing.pop(event_id, None)
        if followed:
            self._touched.add(about)
        return followed

    def withdraw(self, second: int, event_id: str) -> None:
        """Takes note that an event which is tried now is not applied, but failed.

        Until ``fail`` is told of it, it counts as not tried.
        """
        if event_id in self._retried:
            self._failing[event_id] = self._began.failing[event_id]
        elif event_id in self._applied[second]:
            self._applied[second].remove(event_id)

    def fail(self, event_id: str, failed: FailingEvent) -> int | None:
        """Keeps a withdrawn event to be tried again, or gives it up.

        Args:
            event_id: Its id.
            failed: The event, with the reason of this failure; its attempts are those before.

        Returns:
            How many times it was tried, when it is given up: it failed as often as it is tried, or
            there is no room for another failing event.
        """
        before = self._began.failing.get(event_id)
        attempts = 1 + (before.attempts if before is not None else 0)
        self._failing.pop(event_id, None)
        self._applied[failed.created].append(event_id)
        self._handled[event_id] = failed.created
        if attempts >= MOST_ATTEMPTS or len(self._failing) >= MOST_FAILING:
            return attempts
        self._failing[event_id] = FailingEvent(
            type=failed.type, created=failed.created, attempts=attempts, reason=failed.reason
        )
        return None

    def account(self, before: int, known_until: int) -> EventCursor:
        """The cursor once what ``apply`` was told of is applied.

        Args:
            before: All that were listed of the events made before this second are among it.
            known_until: The last second that was over when they were asked for.
        """
        settled = known_until - OVERLAP
        self.cursor = self.cursor.after(
            before,
            self._applied,
            settled=settled,
            behind=self._behind(before, settled),
            failing=self._still_failing(),
            handled={name: at for name, at in self._handled.items() if at >= before},
        )
        self._applied.clear()
        return self.cursor

    def _still_failing(self) -> dict[str, FailingEvent]:
        """The failing events; those of refused streams as they were, as nothing is sure of them."""
        kept = {
            event_id: self._began.failing[event_id]
            for event_id, streams in self._retried.items()
            if streams & self._refused
        }
        return {**self._failing, **kept}

    def _behind(self, before: int, settled: int) -> dict[str, int]:
        behind = {
            stream: self._committed.position(stream)
            for stream in self._began.followed & self._refused
        }
        # Only then have those that were behind what the others had applied before.
        if before <= self._last_applied:
            for stream in self._began.behind.keys() - self._refused:
                position = max(self._began.behind[stream], min(before, settled))
                behind[stream] = position
        return behind
