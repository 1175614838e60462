"""Whatever is late, refused or cut short, the tables end as the events say, and nothing is lost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from engine_server.connectors.stripe.events.cursor import OVERLAP, EventCursor
from engine_server.connectors.stripe.events.poll_round import PollRound

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
class Told:
    """An event: the number is what the object is from then on."""

    number: int
    second: int
    shown_at: int
    about: str


@dataclass(kw_only=True)
class World:
    """An account, its tables, and the last cursor that somebody stored."""

    now: int = BEGINNING
    events: list[Told] = field(default_factory=list)
    rows: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    stored: str = field(
        default=EventCursor(since=BEGINNING - OVERLAP, followed=frozenset(STREAMS)).to_json()
    )

    def happen(self, about: str, lag: int) -> None:
        number = len(self.events) + 1
        told = Told(number=number, second=self.now, shown_at=self.now + lag, about=about)
        self.events.append(told)

    def write(self, stream: str, told: Told) -> None:
        """As a destination does: older ones are skipped, of equally old ones the last wins."""
        key = (stream, told.about)
        if self.rows.get(key, (0, 0))[0] <= told.second:
            self.rows[key] = (told.second, told.number)

    def poll(self, poll: "Poll") -> None:
        """One request: it may end early, and streams may be refused on the way."""
        cursor = EventCursor.parse(self.stored)
        assert cursor is not None
        known: set[str] = {stream for stream, at in poll.refused.items() if at < 0}
        refused: set[str] = set(known)
        told_round = PollRound(cursor, committed=cursor, refused=known)
        if told_round.start is None:
            return
        end = self.now + 1
        listed = sorted(
            (
                told
                for told in self.events
                if told_round.start <= told.second < end and told.shown_at <= self.now
            ),
            key=lambda told: (told.second, told.number),
        )
        bounds = sorted({bound % (end - told_round.start) for bound in poll.bounds})
        befores = [*(told_round.start + bound for bound in bounds if bound), end]
        gte = told_round.start
        for number, before in enumerate(befores):
            if number == poll.windows:
                return
            refused |= {stream for stream, at in poll.refused.items() if at == number}
            # The source learns of it later.
            known |= {stream for stream, at in poll.refused.items() if at + poll.delay <= number}
            for told in (told for told in listed if gte <= told.second < before):
                streams = OBJECTS[told.about]
                for stream in told_round.apply(told.second, str(told.number), told.about, streams):
                    if stream not in refused:
                        self.write(stream, told)
            gte = before
            after = told_round.account(before, self.now - 1)
            assert all(second >= after.since for second in after.applied)
            assert EventCursor.parse(after.to_json()) == after
            # The engine drops what accounts for a refused stream.
            if refused <= known | after.behind.keys():
                self.stored = after.to_json()

    def newest(self) -> dict[tuple[str, str], int]:
        return {
            (stream, told.about): told.number
            for told in self.events
            for stream in OBJECTS[told.about]
        }

    def held(self) -> dict[tuple[str, str], int]:
        return {key: number for key, (_, number) in self.rows.items()}


@dataclass(frozen=True, kw_only=True)
class Poll:
    """How one request goes.

    Attributes:
        bounds: Where its windows end.
        windows: How many of them it comes to.
        refused: The streams that the destination refuses, and from which window on; -1 if they were
            refused before.
        delay: How many windows later the source learns of it.
    """

    bounds: Sequence[int]
    windows: int = 100
    refused: Mapping[str, int] = field(default_factory=dict)
    delay: int = 0


# What happens in one second, how long it takes to show up, and how long it is quiet then.
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
def test_the_tables_end_as_the_events_say(
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
def test_an_event_that_is_not_late_is_applied_once_unless_a_stream_is_refused(
    times: list[tuple[Happenings, Poll]],
) -> None:
    cursor = EventCursor(since=BEGINNING - OVERLAP, followed=frozenset(STREAMS))
    now, applied = BEGINNING, []
    events: list[tuple[int, str, str]] = []
    for (happenings, quiet), _ in times:
        for about, _ in happenings:
            events.append((now, str(len(events)), about))
        now += quiet
        poll_round = PollRound(cursor, committed=cursor, refused=frozenset())
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


def test_a_stream_that_is_refused_meanwhile_stays_where_it_surely_was_committed() -> None:
    cursor = EventCursor(since=100, followed=frozenset({"items", "plans"}))
    refused: set[str] = set()
    poll_round = PollRound(cursor, committed=cursor, refused=refused)
    assert poll_round.apply(110, "evt_1", "plan", ["plans"]) == {"plans"}
    assert dict(poll_round.account(120, 1_000).behind) == {}
    refused.add("plans")
    assert poll_round.apply(130, "evt_2", "plan", ["plans"]) == frozenset()
    after = poll_round.account(140, 1_000)
    assert (after.since, dict(after.behind)) == (140, {"plans": 100})


def test_a_stream_that_is_behind_is_level_once_it_has_what_the_others_had_before() -> None:
    cursor = behind_at_50()
    poll_round = PollRound(cursor, committed=cursor, refused=frozenset())
    assert poll_round.start == 50
    assert poll_round.apply(60, "evt_0", "both", ["items", "plans"]) == {"plans"}
    assert dict(poll_round.account(120, 1_000).behind) == {"plans": 120}
    # The others have it.
    assert poll_round.apply(130, "evt_1", "both", ["items", "plans"]) == {"plans"}
    assert dict(poll_round.account(131, 1_000).behind) == {}


def test_late_events_are_waited_for_of_a_stream_that_is_behind_too() -> None:
    cursor = behind_at_50()
    poll_round = PollRound(cursor, committed=cursor, refused=frozenset())
    after = poll_round.account(120, 90 + OVERLAP)
    assert (after.since, dict(after.behind)) == (100, {"plans": 90})


def test_a_stream_that_is_refused_again_stays_where_it_was() -> None:
    cursor = behind_at_50()
    poll_round = PollRound(cursor, committed=cursor, refused={"plans"})
    assert poll_round.start == 100
    assert dict(poll_round.account(200, 1_000).behind) == {"plans": 50}
