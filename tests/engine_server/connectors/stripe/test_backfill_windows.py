"""What a backfill reads when the asked window, or the list, is not what it was."""

import time
from collections import Counter

import orjson
import pytest

from tests.engine_server.connectors.stripe.reading import (
    Reading,
    config_for,
    read,
    selected,
    time_range,
)
from tests.stripe_simulator.seeds.plan import SeedPlan
from tests.stripe_simulator.simulator import StripeSimulator

DAY = 86_400


async def test_a_later_run_reads_what_is_new_and_no_more() -> None:
    async with StripeSimulator(SeedPlan(counts={"customers": 1_000})) as simulator:
        now = int(time.time())
        config = config_for(simulator)
        first = await read(config, [selected("customers", lt=now - 100)])
        simulator.objects("customers").put({"id": "cus_new", "created": now - 50})
        later = await read(config, [selected("customers")], state=first.state)
        assert later.ids_of("customers") == {"cus_new"}


async def test_a_later_run_of_one_full_second_reads_that_and_no_more() -> None:
    async with StripeSimulator(SeedPlan(counts={"customers": 1_000})) as simulator:
        now = int(time.time())
        config = config_for(simulator)
        first = await read(config, [selected("customers", lt=now - 100)])
        simulator.requests.clear()
        for number in range(150):
            simulator.objects("customers").put({"id": f"cus_new{number}", "created": now - 50})
        later = await read(config, [selected("customers")], state=first.state)
        assert later.ids == Counter(("customers", f"cus_new{number}") for number in range(150))
        assert len(simulator.requests) <= 3


async def test_nothing_is_read_again_where_a_cut_leaves_a_cursor_nothing() -> None:
    async with StripeSimulator() as simulator:
        now = int(time.time())
        for number in range(100):
            simulator.objects("customers").put({"id": f"cus_{number}", "created": now - number})
        simulator.objects("customers").put({"id": "cus_old", "created": now - DAY})
        reading = await read(config_for(simulator), [selected("customers")])
        assert reading.ids == Counter(
            ("customers", i) for i in simulator.objects("customers").ids()
        )
        assert len(simulator.requests.of("/v1/customers")) > 2


async def test_what_enters_the_list_in_a_second_just_read_is_read_by_the_next_run() -> None:
    async with StripeSimulator() as simulator:
        now = int(time.time())
        config = config_for(simulator)
        first = await read(config, [selected("customers", lt=now)])
        simulator.objects("customers").put({"id": "cus_late", "created": now - 1})
        later = await read(config, [selected("customers", lt=now + 60)], state=first.state)
        assert later.ids_of("customers") == {"cus_late"}


async def test_what_is_created_beyond_the_window_while_it_is_read_is_left_out() -> None:
    async with StripeSimulator(SeedPlan(counts={"customers": 300})) as simulator:
        now = int(time.time())
        config, streams = config_for(simulator), [selected("customers", lt=now - 10)]
        expected = simulator.objects("customers").ids()
        before = await read(config, streams, stop_after=1)
        for number in range(150):
            simulator.objects("customers").put({"id": f"cus_new{number}", "created": now - 10})
        after = await read(config, streams, state=before.state)
        assert before.ids + after.ids == Counter(("customers", i) for i in expected)


async def test_window_borders_include_the_start_and_exclude_the_end() -> None:
    async with StripeSimulator() as simulator:
        for second in range(1_000, 1_400):
            simulator.objects("customers").put({"id": f"cus_{second}", "created": second})
        reading = await read(config_for(simulator), [selected("customers", gte=1_050, lt=1_250)])
        assert reading.ids_of("customers") == {f"cus_{s}" for s in range(1_050, 1_250)}
        [started] = [s.started for s in reading.statuses if s.HasField("started")]
        assert started.time_range == time_range(1_050, 1_250)
        assert covered(reading) == set(range(1_050, 1_250))


def covered(reading: Reading) -> set[int]:
    ranges = [s.range_completed.range for s in reading.statuses if s.HasField("range_completed")]
    seconds = [s for r in ranges for s in range(r.gte.seconds, r.lt.seconds)]
    assert len(seconds) == len(set(seconds))
    return set(seconds)


async def test_ranges_completed_before_are_told_again_on_a_resume(
    simulator: StripeSimulator,
) -> None:
    config = config_for(simulator)
    start, end = 1_640_995_200, 1_767_225_600
    streams = [selected("customers", gte=start // DAY * DAY, lt=end)]
    before = await read(config, streams, stop_after=20)
    after = await read(config, streams, state=before.state)
    spans = [s.range_completed.range for s in after.statuses if s.HasField("range_completed")]
    length = sum(r.lt.seconds - r.gte.seconds for r in spans)
    assert length == end - start // DAY * DAY


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((1_000, 4_000), (1_000, 6_000)),
        ((2_000, 5_000), (1_000, 3_500)),
        ((1_000, 6_000), (2_500, 4_500)),
        ((1_000, 2_000), (4_000, 6_000)),
    ],
)
async def test_a_window_changed_between_runs_is_read_whole(
    first: tuple[int, int], second: tuple[int, int]
) -> None:
    async with StripeSimulator() as simulator:
        for second_created in range(1_000, 6_000, 2):
            simulator.objects("customers").put(
                {"id": f"cus_{second_created}", "created": second_created}
            )
        config = config_for(simulator)
        for stop_after in (1, 2, 5, 9):
            before = await read(
                config, [selected("customers", gte=first[0], lt=first[1])], stop_after=stop_after
            )
            after = await read(
                config, [selected("customers", gte=second[0], lt=second[1])], state=before.state
            )
            expected = {f"cus_{s}" for s in range(second[0], second[1], 2)}
            assert expected <= before.ids_of("customers") | after.ids_of("customers")
            assert after.ids_of("customers") <= expected


async def test_a_cursor_whose_object_was_deleted_loses_nothing(
    simulator: StripeSimulator,
) -> None:
    config, streams = config_for(simulator), [selected("products")]
    expected = simulator.objects("products").ids()
    before = await read(config, streams, stop_after=1)
    [remaining] = orjson.loads(before.state.streams["products"])["remaining"]
    simulator.objects("products").delete(remaining["cursor"])
    after = await read(config, streams, state=before.state)
    assert before.ids_of("products") | after.ids_of("products") == expected
    assert after.turns("products") == ["started", "completed"]
