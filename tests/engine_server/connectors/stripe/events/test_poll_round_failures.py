"""Whatever fails, is refused or cut short: each event is applied or given up, and none is lost."""

from collections.abc import Collection
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from engine_server.connectors.stripe.events.cursor import OVERLAP, EventCursor, FailingEvent
from engine_server.connectors.stripe.events.poll_round import MOST_ATTEMPTS, PollRound
from tests.engine_server.connectors.stripe.events.test_poll_round import (
    BOUNDS,
    HAPPENINGS,
    LONGEST_LAG,
    OBJECTS,
    POLLS,
    Happenings,
    Poll,
    Told,
    World,
)


@dataclass(kw_only=True)
class FailingWorld(World):
    """A world in which some events fail by themselves, each a number of times.

    Attributes:
        failures: How many times each event still fails, by its number.
        given_up: The numbers of the events that were given up.
    """

    failures: dict[int, int] = field(default_factory=dict)
    given_up: set[int] = field(default_factory=set)

    def poll(self, poll: Poll) -> None:
        """One request: failing events are tried first, then windows of new ones."""
        cursor = EventCursor.parse(self.stored)
        assert cursor is not None
        known: set[str] = {stream for stream, at in poll.refused.items() if at < 0}
        refused: set[str] = set(known)
        told_round = PollRound(cursor, committed=cursor, refused=known)
        start, end = told_round.start, self.now + 1
        if start is None or start >= end:
            return
        listed = sorted(
            (
                told
                for told in self.events
                if start <= told.second < end and told.shown_at <= self.now
            ),
            key=lambda told: (told.second, told.number),
        )
        for event_id in list(cursor.failing):
            told = self.events[int(event_id) - 1]
            streams = told_round.retry(event_id, told.about, OBJECTS[told.about])
            self.attempt(told_round, told, streams, refused, is_looked_up=True)
        bounds = sorted({bound % (end - start) for bound in poll.bounds})
        gte = start
        for number, before in enumerate([*(start + bound for bound in bounds if bound), end]):
            if number == poll.windows:
                return
            refused |= {stream for stream, at in poll.refused.items() if at == number}
            # The source learns of it later.
            known |= {stream for stream, at in poll.refused.items() if at + poll.delay <= number}
            group = [told for told in listed if gte <= told.second < before]
            for told in group:
                name, kinds = str(told.number), OBJECTS[told.about]
                streams = told_round.apply(told.second, name, told.about, kinds)
                self.attempt(told_round, told, streams, refused)
                if poll.bounds and told.number % 3 == 0:
                    # As where the bound of dead letters is reached.
                    self.store(told_round.account(group[0].second, self.now - 1), refused, known)
            gte = before
            self.store(told_round.account(before, self.now - 1), refused, known)

    def attempt(
        self,
        told_round: PollRound,
        told: Told,
        streams: Collection[str],
        refused: Collection[str],
        *,
        is_looked_up: bool = False,
    ) -> None:
        """Applies an event, unless it fails; one that failed before shows the object as it is."""
        if not streams:
            return
        if self.failures.get(told.number, 0):
            self.failures[told.number] -= 1
            told_round.withdraw(told.second, str(told.number))
            failing = FailingEvent(type="t", created=told.second, attempts=0, reason="no")
            attempts = told_round.fail(str(told.number), failing)
            if attempts is not None:
                assert attempts == MOST_ATTEMPTS
                self.given_up.add(told.number)
            return
        about = [other for other in self.events if other.about == told.about]
        shown = about[-1].number if is_looked_up else told.number
        for stream in streams:
            if stream not in refused:
                self.write(
                    stream,
                    Told(number=shown, second=told.second, shown_at=0, about=told.about),
                )

    def store(self, after: EventCursor, refused: set[str], known: set[str]) -> None:
        """Keeps a checkpoint, unless the engine drops what accounts for a refused stream."""
        assert EventCursor.parse(after.to_json()) == after
        if refused <= known | after.behind.keys():
            self.stored = after.to_json()


TIMES = st.lists(st.tuples(HAPPENINGS, POLLS, st.lists(st.integers(0, 9), max_size=4)), max_size=10)


@settings(max_examples=300)
@given(times=TIMES, bounds=BOUNDS)
def test_each_event_is_applied_or_given_up_and_no_row_ends_older_than_what_was_not_given_up(
    times: list[tuple[Happenings, Poll, list[int]]], bounds: list[int]
) -> None:
    world = FailingWorld()
    for (happenings, quiet), poll, failures in times:
        before = len(world.events)
        for about, lag in happenings:
            world.happen(about, lag)
        for told, count in zip(world.events[before:], failures, strict=False):
            world.failures[told.number] = count
        world.now += quiet
        world.poll(poll)
    world.now += LONGEST_LAG
    for _ in range(2 * MOST_ATTEMPTS + 2):
        world.poll(Poll(bounds=bounds))
        world.now += 1
    newest, held = world.newest(), world.held()
    for key, number in newest.items():
        applied = [
            told.number
            for told in world.events
            if told.about == key[1] and told.number not in world.given_up
        ]
        assert held.get(key, 0) >= max(applied, default=0), key
        assert held.get(key, 0) <= number
    # Nothing is tried again for ever.
    world.now += 10 * OVERLAP
    world.poll(Poll(bounds=[]))
    end = EventCursor.parse(world.stored)
    assert end is not None
    assert (dict(end.failing), dict(end.handled)) == ({}, {})
    assert (end.since, dict(end.applied), dict(end.behind)) == (world.now - 1 - OVERLAP, {}, {})
