"""Model of polls with late events, refusals and interruptions: the tables match the events."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from engine_server.connectors.stripe.events.polling.cursor import OVERLAP, EventCursor
from engine_server.connectors.stripe.events.polling.poll_round import PollRound
from engine_server.errored_streams import ErroredStreams

STREAMS = ("items", "plans", "subscriptions")
# An object is a record of one stream, or of two.
OBJECTS: Mapping[str, tuple[str, ...]] = {
    "plan": ("plans",),
    "subscription": ("items", "subscriptions"),
    "other subscription": ("items", "subscriptions"),
}
BEGINNING = 1_000_000
LONGEST_LAG = OVERLAP - 1


@dataclass(frozen=True, kw_only=True)
class ModelEvent:
    """An event: the number is the object's state from then on."""

    number: int
    second: int
    shown_at: int
    about: str


@dataclass(kw_only=True)
class World:
    """An account, its tables, and the last stored cursor."""

    now: int = BEGINNING
    events: list[ModelEvent] = field(default_factory=list)
    rows: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    stored: str = field(
        default=EventCursor(since=BEGINNING - OVERLAP, followed=frozenset(STREAMS)).to_json()
    )

    def happen(self, about: str, lag: int) -> None:
        number = len(self.events) + 1
        event = ModelEvent(number=number, second=self.now, shown_at=self.now + lag, about=about)
        self.events.append(event)

    def write(self, stream: str, event: ModelEvent) -> None:
        """Write a row like a destination: of equally old events the last wins."""
        key = (stream, event.about)
        if self.rows.get(key, (0, 0))[0] <= event.second:
            self.rows[key] = (event.second, event.number)

    def poll(self, poll: "Poll") -> None:
        """Run one request, which may end early; streams may be refused meanwhile."""
        cursor = EventCursor.parse(self.stored)
        assert cursor is not None
        known = ErroredStreams(stream for stream, at in poll.refused.items() if at < 0)
        refused: set[str] = set(known.names)
        poll_round = PollRound(cursor, committed=cursor, errored=known)
        if poll_round.start is None:
            return
        end = self.now + 1
        listed = sorted(
            (
                event
                for event in self.events
                if poll_round.start <= event.second < end and event.shown_at <= self.now
            ),
            key=lambda event: (event.second, event.number),
        )
        bounds = sorted({bound % (end - poll_round.start) for bound in poll.bounds})
        befores = [*(poll_round.start + bound for bound in bounds if bound), end]
        gte = poll_round.start
        for number, before in enumerate(befores):
            if number == poll.windows:
                return
            refused |= {stream for stream, at in poll.refused.items() if at == number}
            # The source learns of it later.
            for stream, at in poll.refused.items():
                if at + poll.delay <= number:
                    known.add(stream)
            for event in (event for event in listed if gte <= event.second < before):
                streams = OBJECTS[event.about]
                for stream in poll_round.apply(
                    event.second, str(event.number), event.about, streams
                ):
                    if stream not in refused:
                        self.write(stream, event)
            gte = before
            after = poll_round.account(before, self.now - 1)
            assert all(second >= after.since for second in after.applied)
            assert EventCursor.parse(after.to_json()) == after
            # The engine drops checkpoints that account for a refused stream.
            if refused <= known.names | after.behind.keys():
                self.stored = after.to_json()

    def newest(self) -> dict[tuple[str, str], int]:
        return {
            (stream, event.about): event.number
            for event in self.events
            for stream in OBJECTS[event.about]
        }

    def held(self) -> dict[tuple[str, str], int]:
        return {key: number for key, (_, number) in self.rows.items()}


@dataclass(frozen=True, kw_only=True)
class Poll:
    """The course of one request.

    Attributes:
        bounds: The ends of its windows.
        windows: The number of windows that it completes.
        refused: The streams that the destination refuses, and from which window on; -1 if they were
            refused before.
        delay: The number of windows until the source learns of it.
    """

    bounds: Sequence[int]
    windows: int = 100
    refused: Mapping[str, int] = field(default_factory=dict)
    delay: int = 0


# The events of one second, their delay before they appear, and the quiet time after them.
Happenings = tuple[list[tuple[str, int]], int]
HAPPENINGS = st.tuples(
    st.lists(
        st.tuples(st.sampled_from(sorted(OBJECTS)), st.sampled_from([0, 0, 5, 20, LONGEST_LAG])),
        max_size=4,
    ),
    st.sampled_from([0, 1, 10, 30, OVERLAP, 3 * OVERLAP]),
)
BOUNDS = st.lists(st.integers(0, 2 * OVERLAP), max_size=4)
POLLS = st.builds(
    Poll,
    bounds=BOUNDS,
    windows=st.sampled_from([1, 2, 100]),
    refused=st.one_of(
        st.just({}),
        st.dictionaries(st.sampled_from(STREAMS), st.integers(-1, 3), max_size=2),
    ),
    delay=st.integers(0, 2),
)
TIMES = st.lists(st.tuples(HAPPENINGS, POLLS), max_size=12)


@settings(max_examples=300)
@given(times=TIMES, bounds=BOUNDS)
def test_the_tables_match_the_events(
    times: list[tuple[Happenings, Poll]], bounds: list[int]
) -> None:
    world = World()
    for (happenings, quiet), poll in times:
        for about, lag in happenings:
            world.happen(about, lag)
        world.now += quiet
        world.poll(poll)
    world.now += LONGEST_LAG
    world.poll(Poll(bounds=bounds))
    assert world.held() == world.newest()
    # Everything is accounted for, so that nothing is read again for ever.
    world.now += 10 * OVERLAP
    world.poll(Poll(bounds=[]))
    end = EventCursor.parse(world.stored)
    assert end is not None
    assert (end.since, dict(end.applied), dict(end.behind)) == (world.now - 1 - OVERLAP, {}, {})


@given(times=TIMES)
def test_a_timely_event_is_applied_once_unless_a_stream_is_refused(
    times: list[tuple[Happenings, Poll]],
) -> None:
    cursor = EventCursor(since=BEGINNING - OVERLAP, followed=frozenset(STREAMS))
    now, applied = BEGINNING, []
    events: list[tuple[int, str, str]] = []
    for (happenings, quiet), _ in times:
        for about, _ in happenings:
            events.append((now, str(len(events)), about))
        now += quiet
        poll_round = PollRound(cursor, committed=cursor, errored=ErroredStreams())
        for second, event_id, about in events:
            if second >= cursor.since and poll_round.apply(second, event_id, about, OBJECTS[about]):
                applied.append(event_id)
        cursor = poll_round.account(now + 1, now - 1)
    assert applied == [event_id for _, event_id, _ in events]


def behind_at_50() -> EventCursor:
    return EventCursor(
        since=100,
        applied={130: ("evt_1",)},
        followed=frozenset({"items", "plans"}),
        behind={"plans": 50},
    )


def test_a_stream_refused_meanwhile_stays_at_its_committed_position() -> None:
    cursor = EventCursor(since=100, followed=frozenset({"items", "plans"}))
    errored = ErroredStreams()
    poll_round = PollRound(cursor, committed=cursor, errored=errored)
    assert poll_round.apply(110, "evt_1", "plan", ["plans"]) == {"plans"}
    assert dict(poll_round.account(120, 1_000).behind) == {}
    errored.add("plans")
    assert poll_round.apply(130, "evt_2", "plan", ["plans"]) == frozenset()
    after = poll_round.account(140, 1_000)
    assert (after.since, dict(after.behind)) == (140, {"plans": 100})


def test_a_stream_that_is_behind_catches_up_with_the_others() -> None:
    cursor = behind_at_50()
    poll_round = PollRound(cursor, committed=cursor, errored=ErroredStreams())
    assert poll_round.start == 50
    assert poll_round.apply(60, "evt_0", "both", ["items", "plans"]) == {"plans"}
    assert dict(poll_round.account(120, 1_000).behind) == {"plans": 120}
    # The other streams have it.
    assert poll_round.apply(130, "evt_1", "both", ["items", "plans"]) == {"plans"}
    assert dict(poll_round.account(131, 1_000).behind) == {}


def test_a_stream_that_is_behind_waits_for_late_events_too() -> None:
    cursor = behind_at_50()
    poll_round = PollRound(cursor, committed=cursor, errored=ErroredStreams())
    after = poll_round.account(120, 90 + OVERLAP)
    assert (after.since, dict(after.behind)) == (100, {"plans": 90})


def test_a_stream_refused_again_keeps_its_position() -> None:
    cursor = behind_at_50()
    poll_round = PollRound(cursor, committed=cursor, errored=ErroredStreams({"plans"}))
    assert poll_round.start == 100
    assert dict(poll_round.account(200, 1_000).behind) == {"plans": 50}
