"""Model of polls with failures: each event is applied or dead-lettered."""

from collections.abc import Collection
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from engine_server.connectors.stripe.events.polling.cursor import OVERLAP, EventCursor, FailingEvent
from engine_server.connectors.stripe.events.polling.poll_round import MOST_ATTEMPTS, PollRound
from engine_server.errored_streams import ErroredStreams
from tests.engine_server.connectors.stripe.events.test_poll_round import (
    BOUNDS,
    HAPPENINGS,
    LONGEST_LAG,
    OBJECTS,
    POLLS,
    Happenings,
    ModelEvent,
    Poll,
    World,
)


@dataclass(kw_only=True)
class FailingWorld(World):
    """A world in which some events fail a number of times.

    Attributes:
        failures: How many times each event still fails, by its number.
        given_up: The numbers of the dead-lettered events.
    """

    failures: dict[int, int] = field(default_factory=dict)
    given_up: set[int] = field(default_factory=set)

    def poll(self, poll: Poll) -> None:
        """Run one request: failing events are tried first, then windows of new ones."""
        cursor = EventCursor.parse(self.stored)
        assert cursor is not None
        known = ErroredStreams(stream for stream, at in poll.refused.items() if at < 0)
        refused: set[str] = set(known.names)
        poll_round = PollRound(cursor, committed=cursor, errored=known)
        start, end = poll_round.start, self.now + 1
        if start is None or start >= end:
            return
        listed = sorted(
            (
                event
                for event in self.events
                if start <= event.second < end and event.shown_at <= self.now
            ),
            key=lambda event: (event.second, event.number),
        )
        for event_id in list(cursor.failing):
            event = self.events[int(event_id) - 1]
            streams = poll_round.retry(event_id, event.about, OBJECTS[event.about])
            self.attempt(poll_round, event, streams, refused, is_looked_up=True)
        bounds = sorted({bound % (end - start) for bound in poll.bounds})
        gte = start
        for number, before in enumerate([*(start + bound for bound in bounds if bound), end]):
            if number == poll.windows:
                return
            refused |= {stream for stream, at in poll.refused.items() if at == number}
            # The source learns of it later.
            for stream, at in poll.refused.items():
                if at + poll.delay <= number:
                    known.add(stream)
            group = [event for event in listed if gte <= event.second < before]
            for event in group:
                name, kinds = str(event.number), OBJECTS[event.about]
                streams = poll_round.apply(event.second, name, event.about, kinds)
                self.attempt(poll_round, event, streams, refused)
                if poll.bounds and event.number % 3 == 0:
                    # As when the bound of dead letters is reached.
                    self.store(
                        poll_round.account(group[0].second, self.now - 1), refused, known.names
                    )
            gte = before
            self.store(poll_round.account(before, self.now - 1), refused, known.names)

    def attempt(
        self,
        poll_round: PollRound,
        event: ModelEvent,
        streams: Collection[str],
        refused: Collection[str],
        *,
        is_looked_up: bool = False,
    ) -> None:
        """Apply an event, unless it fails.

        An event that failed before shows the current state of its object, and so does one that
        finds a row of its own second: the source looks both up.
        """
        if not streams:
            return
        if self.failures.get(event.number, 0):
            self.failures[event.number] -= 1
            poll_round.withdraw(event.second, str(event.number))
            failing = FailingEvent(type="t", created=event.second, attempts=0, reason="no")
            attempts = poll_round.fail(str(event.number), failing)
            if attempts is not None:
                assert attempts == MOST_ATTEMPTS
                self.given_up.add(event.number)
            return
        about = [other for other in self.events if other.about == event.about]
        rows = [self.rows.get((stream, event.about), (0, 0)) for stream in streams]
        is_unsure = any(second == event.second for second, _ in rows)
        shown = about[-1].number if is_looked_up or is_unsure else event.number
        for stream in streams:
            if stream not in refused:
                self.write(
                    stream,
                    ModelEvent(number=shown, second=event.second, shown_at=0, about=event.about),
                )

    def store(self, after: EventCursor, refused: set[str], known: frozenset[str]) -> None:
        """Keep a checkpoint, unless the engine drops it for a refused stream."""
        assert EventCursor.parse(after.to_json()) == after
        if refused <= known | after.behind.keys():
            self.stored = after.to_json()


TIMES = st.lists(st.tuples(HAPPENINGS, POLLS, st.lists(st.integers(0, 9), max_size=4)), max_size=10)


@settings(max_examples=300)
@given(times=TIMES, bounds=BOUNDS)
def test_each_event_is_applied_or_dead_lettered(
    times: list[tuple[Happenings, Poll, list[int]]], bounds: list[int]
) -> None:
    world = FailingWorld()
    for (happenings, quiet), poll, failures in times:
        before = len(world.events)
        for about, lag in happenings:
            world.happen(about, lag)
        for event, count in zip(world.events[before:], failures, strict=False):
            world.failures[event.number] = count
        world.now += quiet
        world.poll(poll)
    world.now += LONGEST_LAG
    for _ in range(2 * MOST_ATTEMPTS + 2):
        world.poll(Poll(bounds=bounds))
        world.now += 1
    newest, held = world.newest(), world.held()
    for key, number in newest.items():
        applied = [
            event.number
            for event in world.events
            if event.about == key[1] and event.number not in world.given_up
        ]
        assert held.get(key, 0) >= max(applied, default=0), key
        assert held.get(key, 0) <= number
    # No event is retried for ever.
    world.now += 10 * OVERLAP
    world.poll(Poll(bounds=[]))
    end = EventCursor.parse(world.stored)
    assert end is not None
    assert (dict(end.failing), dict(end.handled)) == ({}, {})
    assert (end.since, dict(end.applied), dict(end.behind)) == (world.now - 1 - OVERLAP, {}, {})
