"""Each checkpoint of a backfill leaves exactly what was not emitted before it."""

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping

import orjson
import pytest

from tests.engine_server.connectors.stripe.accounts import END, HISTORIES, fill
from tests.engine_server.connectors.stripe.reading import Reading, config_for, read, selected
from tests.stripe_simulator import faults
from tests.stripe_simulator.objects import ObjectList
from tests.stripe_simulator.simulator import StripeSimulator


class Audit:
    """Compares each checkpoint of one stream with what there is and what was emitted.

    Attributes:
        most_remaining: The most ranges that a checkpoint has held.
        largest: The size of the largest one, in bytes.
    """

    def __init__(self, objects: ObjectList, stream: str) -> None:
        self.most_remaining = 0
        self.largest = 0
        self._stream = stream
        self._keys = list(objects.everything.keys)
        self._ids = [item.id for item in objects.everything.objects]
        self._index = {object_id: index for index, object_id in enumerate(self._ids)}
        self._before: list[str] = []
        self._emitted: list[str] = []

    def next_request(self) -> None:
        """What was emitted so far counts on."""
        self._before = self._emitted

    def __call__(self, reading: Reading) -> None:
        self._emitted = [*self._before, *(object_id for _, object_id in reading.ids.elements())]
        text = reading.state.streams[self._stream]
        checkpoint = orjson.loads(text)
        accounted = self._in(checkpoint["accounted_range"])
        left = [self._in(part, accounted) for part in checkpoint["remaining"]]
        met = Counter([*self._emitted, *(self._ids[index] for part in left for index in part)])
        assert dict(met) == dict.fromkeys((self._ids[index] for index in accounted), 1)
        self.most_remaining = max(self.most_remaining, len(left))
        self.largest = max(self.largest, len(text))

    def _in(self, part: Mapping[str, int | str], window: range | None = None) -> range:
        """Where in the order lies what a range holds after its cursor."""
        first, last = 0, len(self._ids)
        if "gte" in part:
            first = bisect_left(self._keys, (int(part["gte"]), 0))
        if "lt" in part:
            last = bisect_left(self._keys, (int(part["lt"]), 0))
        if "cursor" in part:
            last = min(last, self._index[str(part["cursor"])])
        if window is not None:
            first, last = max(first, window.start), min(last, window.stop)
        return range(first, last)


@pytest.fixture(params=HISTORIES)
def history(request: pytest.FixtureRequest) -> list[int]:
    """The seconds in which the objects were created."""
    return HISTORIES[request.param]


@pytest.mark.parametrize("concurrency", [4, 16])
@pytest.mark.parametrize("is_new", [True, False], ids=["up to now", "long ago"])
async def test_what_was_emitted_and_what_is_left_make_up_what_there_is(
    history: list[int], concurrency: int, is_new: bool
) -> None:
    lt = int(time.time()) if is_new else END
    async with StripeSimulator(outside_cursor="resource_missing") as simulator:
        fill(simulator, "customers", [second - END + lt for second in history])
        simulator.faults.add(faults.jittered_latency(0, 0.003, seed=concurrency), times=None)
        audit = Audit(simulator.objects("customers"), "customers")
        config = config_for(simulator, max_concurrency=concurrency)
        reading = await read(config, [selected("customers", lt=lt)], on_checkpoint=audit)
        assert reading.turns("customers") == ["started", "completed"]
        assert reading.checkpoints >= len(history) / 100
        assert audit.most_remaining <= 2 * concurrency
        assert audit.largest <= 100 + 80 * audit.most_remaining


@pytest.mark.parametrize("stop_after", [1, 3, 10])
async def test_they_make_it_up_over_many_requests_too(history: list[int], stop_after: int) -> None:
    async with StripeSimulator(outside_cursor="resource_missing") as simulator:
        fill(simulator, "customers", history)
        simulator.faults.add(faults.jittered_latency(0, 0.002, seed=stop_after), times=None)
        audit = Audit(simulator.objects("customers"), "customers")
        state = None
        for _ in range(60):
            reading = await read(
                config_for(simulator),
                [selected("customers", lt=END)],
                state=state,
                stop_after=stop_after,
                on_checkpoint=audit,
            )
            state = reading.state
            audit.next_request()
            if reading.checkpoints < stop_after:
                break
        assert reading.turns("customers") == ["started", "completed"]
