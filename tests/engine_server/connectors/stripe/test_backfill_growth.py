"""A list that grows while it is read: no object is lost, and none beyond the ceiling is read."""

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

# The seconds before an earlier ceiling that the next run may read again.
SETTLING = 10


class GrowingAccount:
    """An account with its own clock: each request takes a second and creates customers.

    Some of them were created a little before they appear in the list.
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
        """Return the creation time of each customer by id."""
        return {document["id"]: document["created"] for document in self._objects.documents()}

    def add(self, created: int) -> str:
        """Add a customer to the list."""
        object_id = f"obj_{len(self._objects)}"
        self._objects.put({"id": object_id, "created": created})
        return object_id

    async def read_up_to_now(self, *, cuts: Sequence[int] = ()) -> None:
        """Complete a run, after requests that stop after these numbers of checkpoints."""
        self.ceilings.append(self.now + 1)
        for stop_after in cuts:
            await self.read(stop_after)
        reading = await self.read()
        assert reading.turns("customers") == ["started", "completed"]

    async def cut_short(self, stop_after: int) -> None:
        """Start a run that is abandoned."""
        self.ceilings.append(self.now + 1)
        await self.read(stop_after)

    async def read(self, stop_after: int | None = None) -> Reading:
        """Send a request of the last run."""
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
        """Check that every customer was read, once except while settling at an earlier ceiling."""
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
    """Yield an account with this history, shifted to end now."""
    async with StripeSimulator(outside_cursor="resource_missing") as simulator:
        fill(simulator, "customers", [second - END + now for second in seconds])
        account = GrowingAccount(simulator, now=now)
        simulator.faults.add(faults.jittered_latency(0, 0.002, seed=7), times=None)
        yield account


@pytest.fixture(params=["long ago", "up to now"])
def now(request: pytest.FixtureRequest) -> int:
    """Return an account time far in the past, or recent enough for the newest page."""
    return END if request.param == "long ago" else int(time.time()) - 1_000


@pytest.mark.parametrize("shape", HISTORIES)
async def test_successive_runs_read_all_objects_that_existed_at_their_start(
    shape: str, now: int
) -> None:
    async with growing(HISTORIES[shape], now=now) as account:
        await account.read_up_to_now()
        await account.read_up_to_now()
        account.grows = False
        await account.read_up_to_now()
        account.check()


async def test_a_run_without_new_objects_reads_only_settling_ones_again(now: int) -> None:
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
async def test_a_run_in_many_requests_reads_all_objects_that_existed_at_its_start(
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
async def test_an_abandoned_run_loses_no_objects_of_the_next(
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
async def test_objects_in_the_last_second_of_an_abandoned_run_are_read_by_the_next(
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
