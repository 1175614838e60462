"""A list that grows while it is read: nothing is lost, nothing beyond the ceiling is read."""

import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from pipesync.v1.state_pb2 import SourceState
from tests.engine_server.connectors.stripe.accounts import END, HISTORIES, even, fill
from tests.engine_server.connectors.stripe.reading import Reading, config_for, read, selected
from tests.stripe_simulator import faults
from tests.stripe_simulator.simulator import StripeSimulator

# So many seconds before a former ceiling may be read again by the next run.
SETTLING = 10


class GrowingAccount:
    """An account with a clock of its own: each request takes a second, and brings new customers.

    Some of them were created a little before they enter the list.
    """

    def __init__(self, simulator: StripeSimulator, *, now: int) -> None:
        self.now = now
        self.ids: Counter[str] = Counter()
        self.ceilings: list[int] = []
        self.grows = True
        self._objects = simulator.objects("customers")
        self._config = config_for(simulator, max_concurrency=4)
        self._state = SourceState()
        simulator.faults.add(self._grow, path="/v1/customers", times=None)

    def created(self) -> dict[str, int]:
        """When each customer was created, by id."""
        return {document["id"]: document["created"] for document in self._objects.documents()}

    def add(self, created: int) -> str:
        """A customer enters the list."""
        object_id = f"obj_{len(self._objects)}"
        self._objects.put({"id": object_id, "created": created})
        return object_id

    async def read_up_to_now(self, *, cuts: Sequence[int] = ()) -> None:
        """A run to the end, after requests that are cut short after so many checkpoints."""
        self.ceilings.append(self.now + 1)
        for stop_after in cuts:
            await self.read(stop_after)
        reading = await self.read()
        assert reading.turns("customers") == ["started", "completed"]

    async def cut_short(self, stop_after: int) -> None:
        """A run that is given up."""
        self.ceilings.append(self.now + 1)
        await self.read(stop_after)

    async def read(self, stop_after: int | None = None) -> Reading:
        """A request of the last run."""
        reading = await read(
            self._config,
            [selected("customers", lt=self.ceilings[-1])],
            state=self._state,
            stop_after=stop_after,
        )
        self._state = reading.state
        created = self.created()
        assert all(created[object_id] < self.ceilings[-1] for _, object_id in reading.ids)
        for (_, object_id), count in reading.ids.items():
            self.ids[object_id] += count
        return reading

    def check(self) -> None:
        """All that there is was read, and once but for what was settling at a former ceiling."""
        created = self.created()
        assert created.keys() == self.ids.keys()
        twice = {created[object_id] for object_id, count in self.ids.items() if count > 1}
        assert twice <= {s for c in self.ceilings[:-1] for s in range(c - SETTLING, c)}

    async def _grow(self, request: web.Request, serve: faults.Serve) -> web.StreamResponse:
        if self.grows:
            self.now += 1
            for created in (self.now, self.now - 1, self.now - 4):
                self.add(created)
        return await serve(request)


@asynccontextmanager
async def growing(seconds: Sequence[int], *, now: int = END) -> AsyncIterator[GrowingAccount]:
    """An account that has that history, moved to end now."""
    async with StripeSimulator(outside_cursor="resource_missing") as simulator:
        fill(simulator, "customers", [second - END + now for second in seconds])
        account = GrowingAccount(simulator, now=now)
        simulator.faults.add(faults.jittered_latency(0, 0.002, seed=7), times=None)
        yield account


@pytest.fixture(params=["long ago", "up to now"])
def now(request: pytest.FixtureRequest) -> int:
    """Whether the account's clock is far behind, or so little that the newest page is asked for."""
    return END if request.param == "long ago" else int(time.time()) - 1_000


@pytest.mark.parametrize("shape", HISTORIES)
async def test_runs_one_after_the_other_bring_all_that_was_there_when_they_began(
    shape: str, now: int
) -> None:
    async with growing(HISTORIES[shape], now=now) as account:
        await account.read_up_to_now()
        await account.read_up_to_now()
        account.grows = False
        await account.read_up_to_now()
        account.check()


async def test_a_run_with_nothing_new_reads_again_what_was_settling_and_no_more(now: int) -> None:
    async with growing(even(500), now=now) as account:
        await account.read_up_to_now()
        account.grows = False
        await account.read_up_to_now()
        account.now += 60
        before = account.ids.copy()
        await account.read_up_to_now()
        again = {account.created()[object_id] for object_id in account.ids - before}
        assert again <= set(range(account.ceilings[-2] - SETTLING, account.ceilings[-2]))
        account.check()
        account.now += 60
        before = account.ids.copy()
        await account.read_up_to_now()
        assert account.ids == before


@pytest.mark.parametrize("cuts", [[1], [1, 1, 1], [2, 3], [5, 1, 8], [20]])
async def test_a_run_in_many_requests_brings_all_that_was_there_when_it_began(
    cuts: list[int], now: int
) -> None:
    async with growing(HISTORIES["even"], now=now) as account:
        await account.read_up_to_now(cuts=cuts)
        await account.read_up_to_now(cuts=cuts)
        account.grows = False
        await account.read_up_to_now(cuts=cuts)
        account.check()


@pytest.mark.parametrize("shape", HISTORIES)
@pytest.mark.parametrize("stop_after", [1, 2, 3, 5, 8])
async def test_a_run_that_was_given_up_takes_nothing_from_the_next(
    shape: str, stop_after: int, now: int
) -> None:
    async with growing(HISTORIES[shape], now=now) as account:
        await account.cut_short(stop_after)
        await account.cut_short(stop_after)
        account.grows = False
        await account.read_up_to_now()
        account.check()


@pytest.mark.parametrize("distance", [1, 3, 600])
@pytest.mark.parametrize("stop_after", [1, 2, 4])
async def test_what_enters_the_last_second_of_a_run_that_is_given_up_is_read_by_the_next(
    stop_after: int, distance: int, now: int
) -> None:
    async with growing(even(450, distance=distance), now=now) as account:
        account.grows = False
        await account.cut_short(stop_after)
        late = account.add(account.ceilings[-1] - 1)
        account.now += 5
        await account.read_up_to_now()
        assert account.ids[late] == 1
        account.check()
