"""A backfill reads every object once, in few requests, wherever it is stopped."""

import asyncio
import time
from collections import Counter
from contextlib import aclosing

import orjson
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from engine_server.connectors.protocols import ReadRequest
from engine_server.connectors.stripe.source import StripeSource
from tests.engine_server.connectors.stripe.accounts import STREAMS, everything
from tests.engine_server.connectors.stripe.reading import (
    QUICK,
    config_for,
    read,
    selected,
)
from tests.stripe_simulator import faults
from tests.stripe_simulator.simulator import StripeSimulator


async def test_a_read_emits_every_object_once_and_ends_every_stream(
    simulator: StripeSimulator,
) -> None:
    streams = [selected(name) for name in [*STREAMS, "coupons", "payment_methods"]]
    # Over when the first page is requested, however long its response takes.
    until = Timestamp(seconds=int(time.time()) - 60)
    reading = await read(config_for(simulator), streams, until=until)
    assert reading.ids == Counter(everything(simulator))
    for stream in streams:
        assert reading.turns(stream.name) == ["started", "completed"]
        assert orjson.loads(reading.state.streams[stream.name])["remaining"] == []


async def test_ranges_are_read_in_parallel_with_few_more_requests_than_pages(
    simulator: StripeSimulator,
) -> None:
    await read(config_for(simulator), [selected("customers")])
    requests = simulator.requests.of("/v1/customers")
    assert sum("created[lt]" in r.query and "starting_after" not in r.query for r in requests) > 0
    assert len(requests) <= 26 * 1.15


async def test_small_streams_do_not_wait_for_a_large_one(simulator: StripeSimulator) -> None:
    reading = await read(config_for(simulator, max_concurrency=2), [selected(n) for n in STREAMS])
    completed = [s.stream for s in reading.statuses if s.HasField("completed")]
    assert completed[-1] == "customers"


async def test_checkpoints_stay_small(simulator: StripeSimulator) -> None:
    config = config_for(simulator, max_concurrency=8)
    for stop_after in range(1, 30, 3):
        reading = await read(config, [selected("customers")], stop_after=stop_after)
        remaining = orjson.loads(reading.state.streams["customers"])["remaining"]
        assert len(remaining) <= 2 * 8


async def test_a_complete_stream_is_started_and_completed_without_a_fetch(
    simulator: StripeSimulator,
) -> None:
    streams = [selected("products", lt=1_900_000_000), selected("payment_methods")]
    until = Timestamp(seconds=1_900_000_000)
    first = await read(config_for(simulator), streams, until=until)
    simulator.requests.clear()
    again = await read(config_for(simulator), streams, state=first.state, until=until)
    assert again.turns("products") == again.turns("payment_methods") == ["started", "completed"]
    assert (len(simulator.requests), again.checkpoints) == (0, 0)


@pytest.mark.parametrize("stop_after", [1, 7])
async def test_a_read_closed_early_leaves_no_task(
    simulator: StripeSimulator, stop_after: int
) -> None:
    before = asyncio.all_tasks()
    await read(config_for(simulator), [selected(n) for n in STREAMS], stop_after=stop_after)
    # The simulator's own tasks, of connections whose end it has not noticed yet.
    left = [t for t in asyncio.all_tasks() - before if "FetchScheduler" in repr(t.get_coro())]
    assert left == []


async def test_a_cancelled_read_ends_its_fetches(simulator: StripeSimulator) -> None:
    released = asyncio.Event()
    simulator.faults.add(faults.stall(released), times=None)
    reading = asyncio.create_task(read(config_for(simulator), [selected(n) for n in STREAMS]))
    await simulator.requests.wait_for("/v1/*", 3)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert [t for t in asyncio.all_tasks() if "FetchScheduler" in repr(t.get_coro())] == []


async def test_a_slow_reader_slows_the_fetches(simulator: StripeSimulator) -> None:
    simulator.faults.clear()
    config = config_for(simulator, max_concurrency=3)
    source = StripeSource(QUICK)
    request = ReadRequest(streams=[selected("customers")])
    async with aclosing(source.read(config, request)) as messages:
        async for message in messages:
            if message.HasField("source_state"):
                break
        await simulator.requests.wait_for("/v1/customers", 5)
        # Enough time for all 26 pages, if there were capacity for them.
        await asyncio.sleep(0.2)
        assert len(simulator.requests) <= 1 + 2 * 3
