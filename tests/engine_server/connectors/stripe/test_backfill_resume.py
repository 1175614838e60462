"""A backfill that is interrupted and resumed reads every object once."""

from collections import Counter

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st

from pipesync.v1.state_pb2 import SourceState
from tests.engine_server.connectors.stripe.accounts import (
    END,
    HISTORIES,
    STREAMS,
    even,
    everything,
    fill,
    held,
)
from tests.engine_server.connectors.stripe.reading import config_for, read, selected
from tests.stripe_simulator import faults
from tests.stripe_simulator.simulator import StripeSimulator


async def test_resuming_after_every_checkpoint_in_turn_reads_every_object(
    simulator: StripeSimulator,
) -> None:
    config, streams = config_for(simulator), [selected(name, lt=2_000_000_000) for name in STREAMS]
    ids: Counter[tuple[str, str]] = Counter()
    state = SourceState()
    for _ in range(200):
        reading = await read(config, streams, state=state, stop_after=1)
        ids += reading.ids
        state = reading.state
        if not reading.checkpoints:
            break
    assert ids == Counter(everything(simulator))
    assert all(reading.turns(name) == ["started", "completed"] for name in STREAMS)


@pytest.mark.parametrize("offset", range(4))
async def test_a_stop_after_any_checkpoint_loses_nothing(
    simulator: StripeSimulator, offset: int
) -> None:
    config, streams = config_for(simulator), [selected(name, lt=2_000_000_000) for name in STREAMS]
    for stop_after in range(1 + offset, 40, 4):
        before = await read(config, streams, stop_after=stop_after)
        after = await read(config, streams, state=before.state)
        assert before.ids + after.ids == Counter(everything(simulator)), stop_after


@pytest.mark.parametrize("state_limit", [1, 2, 3, 7, 10])
async def test_a_limited_request_fetches_no_page_that_it_cannot_use(
    simulator: StripeSimulator, state_limit: int
) -> None:
    config, streams = config_for(simulator), [selected(name, lt=2_000_000_000) for name in STREAMS]
    ids: Counter[tuple[str, str]] = Counter()
    state = SourceState()
    for _ in range(100):
        simulator.requests.clear()
        reading = await read(config, streams, state=state, state_limit=state_limit)
        assert len(simulator.requests) == reading.checkpoints <= state_limit
        ids += reading.ids
        state = reading.state
        if all(reading.turns(name)[-1:] == ["completed"] for name in STREAMS):
            break
    assert ids == Counter(everything(simulator))


@pytest.mark.parametrize("state_limit", [1, 2, 3, 7, 10])
@pytest.mark.parametrize("shape", HISTORIES)
async def test_a_history_read_in_batches_costs_few_more_requests_than_pages(
    shape: str, state_limit: int
) -> None:
    async with StripeSimulator(outside_cursor="resource_missing") as simulator:
        fill(simulator, "customers", HISTORIES[shape])
        simulator.faults.add(faults.jittered_latency(0, 0.002, seed=state_limit), times=None)
        config, streams = config_for(simulator), [selected("customers", lt=END)]
        ids: Counter[tuple[str, str]] = Counter()
        state = SourceState()
        for _ in range(60):
            reading = await read(config, streams, state=state, state_limit=state_limit)
            ids += reading.ids
            state = reading.state
            if reading.turns("customers")[-1] == "completed":
                break
        assert ids == held(simulator, "customers")
        pages = -(-len(ids) // 100)
        # Interruptions cost small histories the most, and bursts are cut off from older objects.
        assert len(simulator.requests) <= 1.3 * pages + 3


async def test_the_concurrency_may_change_between_requests() -> None:
    async with StripeSimulator(outside_cursor="resource_missing") as simulator:
        fill(simulator, "customers", even(5_000))
        simulator.faults.add(faults.jittered_latency(0, 0.002, seed=4), times=None)
        ids: Counter[tuple[str, str]] = Counter()
        state = SourceState()
        for concurrency, stop_after in [(1, 3), (16, 5), (2, 7), (9, 2), (1, 1), (5, None)]:
            reading = await read(
                config_for(simulator, max_concurrency=concurrency),
                [selected("customers", lt=END)],
                state=state,
                stop_after=stop_after,
            )
            ids += reading.ids
            state = reading.state
        assert ids == held(simulator, "customers")


@pytest.mark.parametrize("stop_after", [None, 1, 2])
async def test_raising_a_backfill_limit_continues_the_backfill(
    stop_after: int | None,
) -> None:
    async with StripeSimulator(outside_cursor="resource_missing") as simulator:
        fill(simulator, "customers", even(1_500))
        config = config_for(simulator)
        ids: Counter[tuple[str, str]] = Counter()
        state = SourceState()
        for limit in (1, 50, 170, 171, 900, 2_000):
            streams = [selected("customers", lt=END, backfill_limit=limit)]
            for cut_after in (stop_after, None) if stop_after else (None,):
                reading = await read(config, streams, state=state, stop_after=cut_after)
                ids += reading.ids
                state = reading.state
            assert reading.turns("customers") == ["started", "completed"]
            # The objects of the history are numbered from the newest on.
            newest = range(min(limit, 1_500))
            assert ids == Counter(("customers", f"obj_{number}") for number in newest)


async def test_a_list_with_page_tokens_is_read_whole_wherever_it_is_stopped() -> None:
    async with StripeSimulator() as simulator:
        for number in range(50):
            created = f"2026-01-{number % 28 + 1:02}T00:00:00Z"
            simulator.objects("v2_core_accounts").put({"id": f"acct_{number}", "created": created})
        config, streams = config_for(simulator), [selected("v2_core_accounts")]
        expected = Counter(("v2_core_accounts", f"acct_{number}") for number in range(50))
        # The same end for both, however long the first takes.
        until = Timestamp(seconds=2_000_000_000)
        for stop_after in range(1, 4):
            before = await read(config, streams, stop_after=stop_after, until=until)
            after = await read(config, streams, state=before.state, until=until)
            assert before.ids + after.ids == expected
            assert before.checkpoints + after.checkpoints == 3


@settings(max_examples=15, deadline=None)
@given(
    seconds=st.lists(st.integers(1_700_000_000, 1_700_000_060), min_size=100, max_size=500),
    more_seconds=st.lists(st.integers(1_400_000_000, 1_700_000_000), max_size=200),
    stops=st.lists(st.integers(1, 4), max_size=6),
)
async def test_any_history_is_read_once_wherever_it_is_stopped(
    seconds: list[int], more_seconds: list[int], stops: list[int]
) -> None:
    async with StripeSimulator(outside_cursor="resource_missing") as simulator:
        for number, created in enumerate([*seconds, *more_seconds]):
            simulator.objects("customers").put({"id": f"cus_{number}", "created": created})
        config, streams = config_for(simulator), [selected("customers", lt=1_700_000_050)]
        in_window = [c < 1_700_000_050 for c in (*seconds, *more_seconds)]
        ids: Counter[tuple[str, str]] = Counter()
        state = SourceState()
        for stop_after in [*stops, None]:
            reading = await read(config, streams, state=state, stop_after=stop_after)
            ids += reading.ids
            state = reading.state
        assert ids == Counter(("customers", f"cus_{n}") for n, yes in enumerate(in_window) if yes)


@pytest.mark.parametrize("stream", ["customers", "payment_methods"])
@pytest.mark.parametrize("added", [0, 1, 99, 250])
async def test_a_backfill_limit_does_not_apply_to_new_objects_of_later_runs(
    stream: str, added: int
) -> None:
    first_end = END + 20
    async with StripeSimulator() as simulator:
        fill(simulator, stream, even(1_000))
        config, streams = config_for(simulator), [selected(stream, backfill_limit=230)]
        first = await read(config, streams, until=Timestamp(seconds=first_end))
        assert len(first.ids) == 230
        fill(simulator, stream, [END + 100 + number for number in range(added)])
        until = Timestamp(seconds=END + 1_000)
        cut = await read(config, streams, state=first.state, until=until, stop_after=1)
        rest = await read(config, streams, state=cut.state, until=until)
        # Old objects were numbered first.
        new = {f"obj_{number}" for number in range(1_000, 1_000 + added)}
        assert cut.ids + rest.ids == Counter((stream, object_id) for object_id in new)
        assert rest.turns(stream) == ["started", "completed"]
