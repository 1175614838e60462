"""Model of backfills of small histories, compared with the account."""

import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from engine_server.connectors.stripe.lists.ranges import Range
from pipesync.v1.state_pb2 import SourceState
from tests.engine_server.connectors.stripe.reading import Reading, config_for, read, selected
from tests.stripe_simulator import faults
from tests.stripe_simulator.lists import OutsideCursor
from tests.stripe_simulator.simulator import StripeSimulator

DAY = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Objects created at equal distances; ages in seconds before the test's now."""

    age: int
    distance: int
    count: int

    def created(self, now: int) -> list[int]:
        return [now - self.age - number * self.distance for number in range(self.count)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """The end of one request, and the changes before the next one.

    Attributes:
        checkpoints: The number of checkpoints that it takes.
        announced: Whether the source knows that number, as for a state_limit.
        added: How many newer objects are added to the list afterwards.
        deleted: How many objects are deleted afterwards, including the last cursors.
    """

    checkpoints: int
    announced: bool
    added: int = 0
    deleted: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """Circumstances unknown to the source."""

    concurrency: int
    outside_cursor: OutsideCursor
    longest_latency: float
    seed: int


# Few distinct times, so that the bounds of windows, clusters and seconds coincide.
ages = st.builds(
    int.__add__,
    st.sampled_from([0, 60, 3_600, DAY, 30 * DAY, 31 * DAY, 300 * DAY]),
    st.integers(0, 3),
)
clusters = st.lists(
    st.builds(
        Cluster,
        age=ages,
        distance=st.sampled_from([0, 0, 1, 3, 3_600, 5 * DAY]),
        count=st.sampled_from([1, 99, 100, 101, 200, 250]) | st.integers(0, 250),
    ),
    min_size=1,
    max_size=4,
).filter(lambda some: sum(cluster.count for cluster in some) <= 600)
stops = st.builds(
    Stop,
    checkpoints=st.integers(1, 5),
    announced=st.booleans(),
    added=st.sampled_from([0, 0, 1, 130]),
)
stops_with_deletions = st.builds(
    Stop,
    checkpoints=st.integers(1, 5),
    announced=st.booleans(),
    added=st.sampled_from([0, 1, 130]),
    deleted=st.sampled_from([0, 1, 40]),
)
circumstances = st.builds(
    Circumstances,
    concurrency=st.integers(1, 8),
    outside_cursor=st.sampled_from(["empty_page", "resource_missing"]),
    longest_latency=st.sampled_from([0, 0.002]),
    seed=st.integers(0, 1_000),
)
# As ages: the start and the end, which may be slightly in the future; None for no bound.
windows = st.tuples(
    st.none() | st.sampled_from([10, 400]).map(DAY.__mul__) | ages,
    st.none() | st.integers(-60, 0) | ages,
)
cuts_in_a_run = st.lists(stops, min_size=1, max_size=8)
# A case costs a hundred times as much as one of the other models.
settings_of_a_case = settings(max_examples=settings().max_examples // 2)


class Account:
    """A simulated account, its contents over time, and the objects read from it."""

    def __init__(self, stream: str, simulator: StripeSimulator, concurrency: int) -> None:
        self.now = int(time.time()) - 100
        self.ids: Counter[str] = Counter()
        self._stream = stream
        self._created: dict[str, int] = {}
        self._deleted: set[str] = set()
        self._newest_asked = self.now
        self._state = SourceState()
        self._objects = simulator.objects(stream)
        self._config = config_for(simulator, max_concurrency=concurrency)

    def window(self, asked: tuple[int | None, int | None]) -> Range:
        """Return the window between two ages; one without an end ends just after now."""
        gte, lt = (None if age is None else self.now - age for age in asked)
        return Range(gte=gte, lt=self.now + 1 if lt is None else lt)

    def held(self, window: Range) -> set[str]:
        """Return the objects of a window that existed all the time."""
        return {
            object_id
            for object_id, created in self._created.items()
            if window.contains(created) and object_id not in self._deleted
        }

    def add(self, created: int) -> None:
        """Add an object to the list."""
        object_id = f"obj_{len(self._created)}"
        self._created[object_id] = created
        self._objects.put({"id": object_id, "created": created})

    def change(self, stop: Stop) -> None:
        """Apply the changes between an interrupted request and the next one."""
        for number in range(stop.added):
            self.add(self._newest_asked + number // 3)
        there = [object_id for object_id in self.ids if object_id not in self._deleted]
        for object_id in there[max(0, len(there) - stop.deleted) :]:
            self._deleted.add(object_id)
            self._objects.delete(object_id)

    async def read(self, window: Range, stop: Stop | None = None) -> Reading:
        """Send one request that continues after the previous one."""
        self._newest_asked = max(self._newest_asked, window.lt or 0)
        limit = stop.checkpoints if stop else None
        reading = await read(
            self._config,
            [selected(self._stream, gte=window.gte, lt=window.lt)],
            state=self._state,
            stop_after=limit,
            state_limit=limit if stop and stop.announced else None,
        )
        self._state = reading.state
        for (_, object_id), count in reading.ids.items():
            assert window.contains(self._created[object_id])
            self.ids[object_id] += count
        return reading

    async def read_to_the_end(self, window: Range, stops: Sequence[Stop]) -> None:
        """Send requests until the stream is complete; the list changes in between."""
        for stop in stops:
            await self.read(window, stop)
            self.change(stop)
        reading = await self.read(window)
        assert reading.turns(self._stream) == ["started", "completed"]


@asynccontextmanager
async def account_of(
    stream: str, history: Sequence[Cluster], around: Circumstances
) -> AsyncIterator[Account]:
    """Yield an account with this history."""
    async with StripeSimulator(outside_cursor=around.outside_cursor) as simulator:
        if around.longest_latency:
            latency = faults.jittered_latency(0, around.longest_latency, seed=around.seed)
            simulator.faults.add(latency, times=None)
        account = Account(stream, simulator, around.concurrency)
        for cluster in history:
            for created in cluster.created(account.now):
                account.add(created)
        yield account


@settings_of_a_case
@given(
    history=clusters,
    asked=windows,
    cuts=cuts_in_a_run,
    around=circumstances,
)
async def test_a_window_is_read_once_however_the_reads_are_interrupted(
    history: list[Cluster],
    asked: tuple[int | None, int | None],
    cuts: list[Stop],
    around: Circumstances,
) -> None:
    async with account_of("customers", history, around) as account:
        window = account.window(asked)
        expected = account.held(window)
        await account.read_to_the_end(window, cuts)
        assert account.ids == Counter(expected)


@settings_of_a_case
@given(history=clusters, cuts=cuts_in_a_run, around=circumstances)
async def test_an_unfiltered_list_is_read_once_however_the_reads_are_interrupted(
    history: list[Cluster], cuts: list[Stop], around: Circumstances
) -> None:
    async with account_of("payment_methods", history, around) as account:
        expected = account.held(Range())
        await account.read_to_the_end(Range(), cuts)
        # It may include objects added meanwhile.
        assert expected <= account.ids.keys()
        assert set(account.ids.values()) <= {1}


@settings_of_a_case
@given(
    history=clusters,
    asked=windows,
    cuts=st.lists(stops_with_deletions, min_size=1, max_size=8),
    around=circumstances,
)
async def test_deleted_objects_lose_no_others(
    history: list[Cluster],
    asked: tuple[int | None, int | None],
    cuts: list[Stop],
    around: Circumstances,
) -> None:
    async with account_of("customers", history, around) as account:
        window = account.window(asked)
        await account.read_to_the_end(window, cuts)
        assert account.held(window) <= account.ids.keys()


@settings_of_a_case
@given(
    history=clusters,
    earlier=st.lists(st.tuples(windows, st.lists(stops, max_size=3)), max_size=4),
    asked=windows,
    cuts=st.lists(stops, max_size=4),
    around=circumstances,
)
async def test_after_any_other_windows_all_of_the_last_one_is_read(
    history: list[Cluster],
    earlier: list[tuple[tuple[int | None, int | None], list[Stop]]],
    asked: tuple[int | None, int | None],
    cuts: list[Stop],
    around: Circumstances,
) -> None:
    async with account_of("customers", history, around) as account:
        for other, cuts_of_other in earlier:
            for stop in cuts_of_other:
                await account.read(account.window(other), stop)
                account.change(stop)
        window = account.window(asked)
        await account.read_to_the_end(window, cuts)
        assert account.held(window) <= account.ids.keys()
