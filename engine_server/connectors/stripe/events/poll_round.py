"""One poll's bookkeeping: which streams an event is applied for, and where the cursor is then."""

from collections import defaultdict
from collections.abc import Collection, Hashable
from collections.abc import Set as AbstractSet

from engine_server.connectors.stripe.events.cursor import OVERLAP, EventCursor


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

    def account(self, before: int, known_until: int) -> EventCursor:
        """The cursor once what ``apply`` was told of is applied.

        Args:
            before: All that were listed of the events made before this second are among it.
            known_until: The last second that was over when they were asked for.
        """
        settled = known_until - OVERLAP
        self.cursor = self.cursor.after(
            before, self._applied, settled=settled, behind=self._behind(before, settled)
        )
        self._applied.clear()
        return self.cursor

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
