"""More objects in a second than on a page: each is read once, and requests do not loop."""

import time
from collections import Counter

import pytest

from pipesync.v1.state_pb2 import SourceState
from tests.engine_server.connectors.stripe.accounts import END, even, fill, held
from tests.engine_server.connectors.stripe.reading import config_for, read, selected
from tests.stripe_simulator.lists import OutsideCursor
from tests.stripe_simulator.simulator import StripeSimulator


@pytest.mark.parametrize("gte", [None, END - 5], ids=["open", "five seconds"])
@pytest.mark.parametrize("is_new", [True, False], ids=["up to now", "long ago"])
async def test_ten_thousand_objects_in_five_seconds_are_read_once(
    gte: int | None, is_new: bool
) -> None:
    moved = int(time.time()) - END if is_new else 0
    async with StripeSimulator(outside_cursor="resource_missing") as simulator:
        fill(simulator, "customers", [END - 1 - number % 5 + moved for number in range(10_000)])
        window = selected("customers", gte=None if gte is None else gte + moved, lt=END + moved)
        reading = await read(config_for(simulator), [window])
        assert reading.ids == held(simulator, "customers")
        assert len(simulator.requests) <= 100 * 1.05


@pytest.mark.parametrize("outside_cursor", ["empty_page", "resource_missing"])
@pytest.mark.parametrize("where", [0, 1_000, 1_999], ids=["newest", "middle", "oldest"])
async def test_a_thousand_objects_in_one_second_of_an_even_history_are_read_once(
    where: int, outside_cursor: OutsideCursor
) -> None:
    seconds = even(2_000)
    async with StripeSimulator(outside_cursor=outside_cursor) as simulator:
        fill(simulator, "customers", [*seconds, *[seconds[where]] * 1_000])
        reading = await read(config_for(simulator), [selected("customers", lt=END)])
        assert reading.ids == held(simulator, "customers")
        assert len(simulator.requests) <= 2 * 30


@pytest.mark.parametrize("state_limit", [1, 4])
async def test_a_second_of_many_pages_is_read_once_in_many_requests(state_limit: int) -> None:
    async with StripeSimulator(outside_cursor="resource_missing") as simulator:
        fill(simulator, "customers", [END - 5] * 2_000)
        ids: Counter[tuple[str, str]] = Counter()
        state = SourceState()
        for _ in range(-(-20 // state_limit)):
            reading = await read(
                config_for(simulator),
                [selected("customers", gte=END - 5, lt=END - 4)],
                state=state,
                state_limit=state_limit,
            )
            ids += reading.ids
            state = reading.state
        assert reading.turns("customers") == ["started", "completed"]
        assert ids == held(simulator, "customers")
        assert len(simulator.requests) == 20
