"""Backfills whose window, or list, has changed since the last read."""

import time
from collections import Counter
from collections.abc import Sequence

import orjson
import pytest

from engine_server.connectors.stripe.lists.ranges import Range
from pipesync.v1.state_pb2 import SourceState
from tests.engine_server.connectors.stripe.accounts import END, even, fill
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


async def test_a_later_run_reads_only_new_objects() -> None:
    async with StripeSimulator(SeedPlan(counts={"customers": 1_000})) as simulator:
        now = int(time.time())
        config = config_for(simulator)
        first = await read(config, [selected("customers", lt=now - 100)])
        simulator.objects("customers").put({"id": "cus_new", "created": now - 50})
        later = await read(config, [selected("customers")], state=first.state)
        assert later.ids_of("customers") == {"cus_new"}


async def test_a_later_run_of_one_full_second_reads_only_that_second() -> None:
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


async def test_no_object_is_read_again_if_a_split_leaves_a_cursor_no_objects() -> None:
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


async def test_objects_added_in_a_second_just_read_are_read_by_the_next_run() -> None:
    async with StripeSimulator() as simulator:
        now = int(time.time())
        config = config_for(simulator)
        first = await read(config, [selected("customers", lt=now)])
        simulator.objects("customers").put({"id": "cus_late", "created": now - 1})
        later = await read(config, [selected("customers", lt=now + 60)], state=first.state)
        assert later.ids_of("customers") == {"cus_late"}


async def test_objects_created_beyond_the_window_while_it_is_read_are_left_out() -> None:
    async with StripeSimulator(SeedPlan(counts={"customers": 300})) as simulator:
        now = int(time.time())
        config, streams = config_for(simulator), [selected("customers", lt=now - 10)]
        expected = simulator.objects("customers").ids()
        before = await read(config, streams, stop_after=1)
        for number in range(150):
            simulator.objects("customers").put({"id": f"cus_new{number}", "created": now - 10})
        after = await read(config, streams, state=before.state)
        assert before.ids + after.ids == Counter(("customers", i) for i in expected)


async def test_windows_include_their_start_and_exclude_their_end() -> None:
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


async def test_completed_ranges_are_reported_again_on_a_resume(
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
async def test_a_window_changed_between_runs_is_read_completely(
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


def window_of(days: tuple[int | None, int]) -> tuple[int | None, int]:
    """Return a window between two ages in days, at the end of the histories."""
    oldest, newest = days
    return None if oldest is None else END - oldest * DAY, END - newest * DAY


@pytest.mark.parametrize("stop_after", [1, 2, 5, 9])
@pytest.mark.parametrize(
    "windows",
    [
        pytest.param([(None, 10), (None, 5), (None, 0)], id="later and later"),
        pytest.param([(15, 5), (25, 5), (None, 5)], id="earlier and earlier"),
        pytest.param([(10, 9), (15, 5), (None, 0)], id="wider both ways"),
    ],
)
async def test_a_window_that_grew_is_read_once_except_settling_objects(
    windows: Sequence[tuple[int | None, int]], stop_after: int
) -> None:
    async with StripeSimulator(outside_cursor="resource_missing") as simulator:
        fill(simulator, "customers", even(4_000))
        created = {d["id"]: d["created"] for d in simulator.objects("customers").documents()}
        ids: Counter[str] = Counter()
        state = SourceState()
        for days in windows:
            gte, lt = window_of(days)
            reading = await read(
                config_for(simulator),
                [selected("customers", gte=gte, lt=lt)],
                state=state,
                stop_after=None if days is windows[-1] else stop_after,
            )
            state = reading.state
            ids.update(object_id for _, object_id in reading.ids.elements())
        window = Range(gte=gte, lt=lt)
        assert ids.keys() == {i for i, second in created.items() if window.contains(second)}
        ends = [window_of(days)[1] for days in windows]
        twice = {created[object_id] for object_id, count in ids.items() if count > 1}
        assert twice <= {second for end in ends for second in range(end - 10, end)}


@pytest.mark.parametrize("stop_after", [1, 2, 5, 9])
async def test_a_window_that_shrank_rereads_only_the_trimmed_ranges(
    stop_after: int,
) -> None:
    async with StripeSimulator(outside_cursor="resource_missing") as simulator:
        fill(simulator, "customers", even(4_000))
        created = {d["id"]: d["created"] for d in simulator.objects("customers").documents()}
        config = config_for(simulator)
        before = await read(config, [selected("customers", lt=END)], stop_after=stop_after)
        gte, lt = END - 20 * DAY, END - 5 * DAY
        after = await read(config, [selected("customers", gte=gte, lt=lt)], state=before.state)
        window = Range(gte=gte, lt=lt)
        inside = {i for i, second in created.items() if window.contains(second)}
        assert after.ids_of("customers") <= inside
        assert inside <= before.ids_of("customers") | after.ids_of("customers")
        remaining = orjson.loads(before.state.streams["customers"])["remaining"]
        cut = [
            part
            for part in (Range(**fields) for fields in remaining)
            if any(part.contains(border) and part.contains(border - 1) for border in (gte, lt))
        ]
        for object_id in before.ids_of("customers") & after.ids_of("customers"):
            assert any(part.contains(created[object_id]) for part in cut)
