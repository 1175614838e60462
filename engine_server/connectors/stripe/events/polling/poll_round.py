"""State of one poll: the streams to apply each event to, and the resulting cursor."""

from collections import defaultdict
from collections.abc import Collection, Hashable

from engine_server.connectors.stripe.events.polling.cursor import (
    MOST_FAILING,
    OVERLAP,
    EventCursor,
    FailingEvent,
)
from engine_server.errored_streams import ErroredStreams

# The most attempts at an event that fails for a reason of its own, one per poll.
MOST_ATTEMPTS = 5


class PollRound:
    """Decides how the events of one poll are applied, oldest first.

    Attributes:
        cursor: The events applied and accounted for so far.
    """

    def __init__(
        self, cursor: EventCursor, *, committed: EventCursor, errored: ErroredStreams
    ) -> None:
        """Start at the cursor.

        Args:
            cursor: The events that earlier polls applied.
            committed: A cursor up to which all records are surely committed, for streams that turn
                out to be refused. It follows these streams, too.
            errored: The streams that have errored; more may be added meanwhile.
        """
        self.cursor = cursor
        self._began = cursor
        self._committed = committed
        self._errored = errored
        self._applied_before = frozenset(name for ids in cursor.applied.values() for name in ids)
        self._last_applied = max(cursor.applied, default=cursor.since - 1)
        # The objects of late events: later events about them are applied again.
        self._touched: set[Hashable] = set()
        self._applied: defaultdict[int, list[str]] = defaultdict(list)
        # The failing events that were retried, with their streams.
        self._retried: dict[str, frozenset[str]] = {}
        # The events that still fail if no stream is refused.
        self._failing = dict(cursor.failing)
        self._handled = dict(cursor.handled)

    @property
    def start(self) -> int | None:
        """The second to read from; None if no stream can be followed now."""
        followed = self._began.followed - self._errored.names
        return min(map(self._began.position, followed), default=None)

    def apply(
        self, second: int, event_id: str, about: Hashable, streams: Collection[str]
    ) -> frozenset[str]:
        """Return the streams to apply an event to; none if it was applied before.

        Args:
            second: The second of its creation.
            event_id: The id of the event.
            about: The object of the event.
            streams: The streams with records of the object.
        """
        began = self._began
        if event_id in self._failing or event_id in self._handled:
            return frozenset()
        followed = (began.followed - self._errored.names) & set(streams)
        wanted = {name for name in followed if second >= began.behind.get(name, second + 1)}
        current = followed - began.behind.keys()
        if current and second >= began.since:
            is_late = event_id not in self._applied_before
            # Without the second condition, the older state of a late event would remain.
            if is_late or about in self._touched:
                wanted |= current
            if is_late and second <= self._last_applied:
                self._touched.add(about)
        if wanted:
            self._applied[second].append(event_id)
        return frozenset(wanted)

    def retry(self, event_id: str, about: Hashable, streams: Collection[str]) -> frozenset[str]:
        """Return the streams to retry a failing event for; none while one is refused.

        Args:
            event_id: One of the cursor's failing events.
            about: The object of the event.
            streams: The streams with records of the object.
        """
        followed = frozenset(self._began.followed & set(streams))
        if followed & self._errored.names:
            return frozenset()
        self._retried[event_id] = followed
        self._failing.pop(event_id, None)
        if followed:
            self._touched.add(about)
        return followed

    def withdraw(self, second: int, event_id: str) -> None:
        """Record that an event of this poll failed and was not applied.

        Until ``fail`` is called for it, it counts as not tried.
        """
        if event_id in self._retried:
            self._failing[event_id] = self._began.failing[event_id]
        elif event_id in self._applied[second]:
            self._applied[second].remove(event_id)

    def fail(self, event_id: str, failed: FailingEvent) -> int | None:
        """Keep a withdrawn event for a retry, or give it up.

        Args:
            event_id: The id of the event.
            failed: The event, with the reason of this failure and the number of earlier attempts.

        Returns:
            The number of attempts, if the event is given up: it was tried often enough, or there
            are too many other failing events.
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
        """Return the cursor after the events given to ``apply`` are applied.

        Args:
            before: These include all listed events created before this second.
            known_until: The last second that was over at the request.
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
        """Return the failing events; those of refused streams as before.

        Whether their retries succeeded is unknown.
        """
        kept = {
            event_id: self._began.failing[event_id]
            for event_id, streams in self._retried.items()
            if streams & self._errored.names
        }
        return {**self._failing, **kept}

    def _behind(self, before: int, settled: int) -> dict[str, int]:
        behind = {
            stream: self._committed.position(stream)
            for stream in self._began.followed & self._errored.names
        }
        # Only from here on do streams that were behind have all events that the others had.
        if before <= self._last_applied:
            for stream in self._began.behind.keys() - self._errored.names:
                position = max(self._began.behind[stream], min(before, settled))
                behind[stream] = position
        return behind
