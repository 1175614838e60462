"""Objects at, just before and just after the split points of a backfill are read once."""

import time
from collections import Counter

import orjson
import pytest
from aiohttp import web

from tests.engine_server.connectors.stripe.accounts import END, HISTORIES, even, fill, held
from tests.engine_server.connectors.stripe.reading import config_for, read, selected
from tests.stripe_simulator import faults
from tests.stripe_simulator.lists import OutsideCursor
from tests.stripe_simulator.simulator import StripeSimulator

AROUND = (-1, 0, 1)
# Objects around a split point may lead to more split points, and these to still more.
MOST_BORDERS = 20


class SplitPoints:
    """Adds objects around the split points of the source when it first requests them.

    Only in ranges that were not read yet: objects added there must be read.

    Attributes:
        filled: The split points with objects around them.
    """

    def __init__(self, simulator: StripeSimulator, *, together: int = 1) -> None:
        """Store the simulator; ``together`` is the number of objects in each of the seconds."""
        self.filled: set[int] = set()
        self._objects = simulator.objects("customers")
        self._together = together
        self._shown: set[int] = set()
        simulator.faults.add(self._fault, times=None)

    async def _fault(self, request: web.Request, serve: faults.Serve) -> web.StreamResponse:
        for param, second in request.query.items():
            if param in ("created[gte]", "created[lt]"):
                self._put_round(int(second))
        response = await serve(request)
        assert isinstance(response, web.Response)
        assert isinstance(response.body, bytes)
        self._shown.update(document["created"] for document in orjson.loads(response.body)["data"])
        return response

    def _put_round(self, split_point: int) -> None:
        around = [split_point + step for step in AROUND]
        if split_point in self.filled or len(self.filled) >= MOST_BORDERS:
            return
        if not self._shown.isdisjoint(around):
            return
        self.filled.add(split_point)
        for second in around * self._together:
            self._objects.put({"id": f"cus_{len(self._objects)}_{second}", "created": second})


def inside(simulator: StripeSimulator, gte: int, lt: int) -> Counter[tuple[str, str]]:
    """Return the customers of a window, each counted once."""
    documents = simulator.objects("customers").documents()
    return Counter(("customers", d["id"]) for d in documents if gte <= d["created"] < lt)


@pytest.mark.parametrize("outside_cursor", ["empty_page", "resource_missing"])
@pytest.mark.parametrize("together", [1, 120])
@pytest.mark.parametrize("shape", HISTORIES)
async def test_objects_around_every_split_point_are_read_once(
    shape: str, together: int, outside_cursor: OutsideCursor
) -> None:
    seconds = HISTORIES[shape]
    gte = min(seconds)
    async with StripeSimulator(outside_cursor=outside_cursor) as simulator:
        fill(simulator, "customers", seconds)
        split_points = SplitPoints(simulator, together=together)
        simulator.faults.add(faults.jittered_latency(0, 0.002, seed=3), times=None)
        reading = await read(config_for(simulator), [selected("customers", gte=gte, lt=END)])
        assert reading.ids == inside(simulator, gte, END)
        assert split_points.filled >= {gte, END}
        assert len(split_points.filled) > 2 or shape == "sparse"


@pytest.mark.parametrize("stop_after", [1, 2, 3, 5, 8, 13, 21])
async def test_objects_around_every_split_point_are_read_once_despite_interruptions(
    stop_after: int,
) -> None:
    seconds = even(5_000)
    gte = min(seconds)
    async with StripeSimulator(outside_cursor="resource_missing") as simulator:
        fill(simulator, "customers", seconds)
        SplitPoints(simulator)
        simulator.faults.add(faults.jittered_latency(0, 0.002, seed=stop_after), times=None)
        config, streams = config_for(simulator), [selected("customers", gte=gte, lt=END)]
        before = await read(config, streams, stop_after=stop_after)
        after = await read(config, streams, state=before.state)
        assert before.ids + after.ids == inside(simulator, gte, END)


@pytest.mark.parametrize("concurrency", [4, 16])
@pytest.mark.parametrize("together", [1, 2, 7])
async def test_every_second_of_a_dense_history_is_read_once(
    together: int, concurrency: int
) -> None:
    seconds = [second for second in even(2_800 // together, distance=1) for _ in range(together)]
    async with StripeSimulator(outside_cursor="resource_missing") as simulator:
        fill(simulator, "customers", seconds)
        config = config_for(simulator, max_concurrency=concurrency)
        streams = [selected("customers", gte=min(seconds), lt=END)]
        assert (await read(config, streams)).ids == held(simulator, "customers")


@pytest.mark.parametrize("is_new", [True, False], ids=["up to now", "long ago"])
@pytest.mark.parametrize("together", [1, 100, 130])
@pytest.mark.parametrize("stop_after", [None, 1])
async def test_a_window_starts_with_its_first_second_and_ends_before_its_last(
    is_new: bool, together: int, stop_after: int | None
) -> None:
    lt = int(time.time()) if is_new else END
    gte = lt - 86_400
    async with StripeSimulator() as simulator:
        objects = simulator.objects("customers")
        for split_point in (gte, lt):
            for step in AROUND:
                for number in range(together):
                    second = split_point + step
                    objects.put({"id": f"{second}_{number}", "created": second})
        config, streams = config_for(simulator), [selected("customers", gte=gte, lt=lt)]
        before = await read(config, streams, stop_after=stop_after)
        after = await read(config, streams, state=before.state)
        inside = (gte, gte + 1, lt - 1)
        assert before.ids + after.ids == Counter(
            ("customers", f"{second}_{number}") for second in inside for number in range(together)
        )


@pytest.mark.parametrize("count", [99, 100, 101, 199, 200, 201])
async def test_a_second_that_fills_its_pages_exactly_is_read_once(count: int) -> None:
    async with StripeSimulator(outside_cursor="resource_missing") as simulator:
        fill(simulator, "customers", [END - 1] * count + [END - 2] * count + [END] * count)
        reading = await read(config_for(simulator), [selected("customers", gte=END - 2, lt=END)])
        assert sum(reading.ids.values()) == len(reading.ids) == 2 * count
