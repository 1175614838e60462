"""Events of one second, in either order: the row is the final version of the object."""

import itertools
import time
from collections.abc import AsyncIterator

import asyncpg
import pytest

from pipesync_client import EngineClient
from tests.end_to_end.listening import free_port, open_sync, quick_engine, released
from tests.end_to_end.stripe_pipeline import StripePipeline, selections
from tests.end_to_end.tables import assert_tables_equal, documents
from tests.end_to_end.ways_in import PUSHED, WAYS_IN, Pushed, WayIn, following, push, pushed_as
from tests.stripe_simulator.seeds.plan import SeedPlan
from tests.stripe_simulator.simulator import StripeSimulator

# Stripe shows for one of these streams when its objects were last updated.
STREAMS = ("customers", "products")


@pytest.fixture
async def simulator() -> AsyncIterator[StripeSimulator]:
    async with StripeSimulator(SeedPlan(counts=dict.fromkeys(STREAMS, 2))) as simulator:
        yield simulator


@pytest.fixture
def pipeline(simulator: StripeSimulator, database_url: str) -> StripePipeline:
    return StripePipeline(
        simulator=simulator, database_url=database_url, streams=selections(*STREAMS)
    )


def _two_updates(simulator: StripeSimulator, stream: str) -> list[bytes]:
    """Return the events of two updates in one second."""
    [first, *_] = simulator.objects(stream).ids()
    bodies: list[bytes] = []
    simulator.on_event(lambda event: bodies.append(event.body))
    simulator.clock.set(time.time())
    for name in ("second", "third"):
        simulator.update(stream, first, {"name": name})
    return bodies[:2]


@pytest.fixture
async def client() -> AsyncIterator[EngineClient]:
    async with quick_engine() as client:
        yield client


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("together", [True, False], ids=["in one request", "in two"])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["in order", "out of order"])
@pytest.mark.parametrize("way_in", PUSHED)
async def test_of_two_pushed_ones_the_order_does_not_count(
    simulator: StripeSimulator,
    pipeline: StripePipeline,
    way_in: Pushed,
    order: tuple[int, int],
    together: bool,
    stream: str,
) -> None:
    async with quick_engine() as client:
        await pipeline.sync_to_the_end(client)
        bodies = _two_updates(simulator, stream)
        inputs = [pushed_as(way_in, bodies[number]) for number in order]
        for some in [inputs] if together else [[one] for one in inputs]:
            await push(client, pipeline, *some)
    await assert_tables_equal(simulator, pipeline.database_url, STREAMS)


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("hard_delete", [False, True])
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
async def test_the_end_of_an_object_comes_last_in_its_second(
    simulator: StripeSimulator,
    pipeline: StripePipeline,
    order: tuple[int, ...],
    stream: str,
    hard_delete: bool,
) -> None:
    if hard_delete:
        pipeline = StripePipeline(
            simulator=simulator,
            database_url=pipeline.database_url,
            streams=pipeline.streams,
            destination={"delete_mode": "hard"},
        )
    async with quick_engine() as client:
        await pipeline.sync_to_the_end(client)
        bodies: list[bytes] = []
        simulator.on_event(lambda event: bodies.append(event.body))
        [first, *_] = simulator.objects(stream).ids()
        simulator.clock.advance(5)
        for name in ("second", "third"):
            last = simulator.update(stream, first, {"name": name})
        simulator.delete(stream, first)
        for number in order:
            await push(client, pipeline, pushed_as("event_json", bodies[number]))
    rows = {row["id"]: row for row in await documents(pipeline.database_url, stream)}
    assert rows.get(first) == (None if hard_delete else {**last, "deleted": True})


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("way_in", WAYS_IN)
async def test_by_every_way_in_the_row_is_the_object_in_the_end(
    client: EngineClient,
    simulator: StripeSimulator,
    pipeline: StripePipeline,
    way_in: WayIn,
    stream: str,
) -> None:
    async with following(client, pipeline, way_in) as apply:
        _two_updates(simulator, stream)
        await apply()
        simulator.update(stream, next(iter(simulator.objects(stream).ids())), {"name": "fourth"})
        await apply()
    await assert_tables_equal(simulator, pipeline.database_url, STREAMS)


async def test_webhooks_out_of_order_leave_the_newer_state(
    client: EngineClient, simulator: StripeSimulator, pipeline: StripePipeline
) -> None:
    port = free_port()
    endpoint = simulator.register_webhook(f"http://127.0.0.1:{port}/stripe")
    listening = StripePipeline(
        simulator=simulator,
        database_url=pipeline.database_url,
        streams=pipeline.streams,
        source={"webhook_port": port, "webhook_secret": endpoint["secret"]},
    )
    simulator.deliveries.disturb(duplicates=0.5, reorder=0.2, seed=3)
    async with open_sync(client, listening) as sync:
        await sync.history_read()
        for stream in STREAMS:
            _two_updates(simulator, stream)
        await simulator.deliveries.settled()
    await released(port)
    await assert_tables_equal(simulator, pipeline.database_url, STREAMS)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["in order", "out of order"])
async def test_items_whose_subscriptions_are_not_selected_are_as_they_are_in_the_end(
    client: EngineClient, database_url: str, order: tuple[int, int]
) -> None:
    counts = {"customers": 1, "prices": 1, "products": 1, "subscriptions": 1}
    async with StripeSimulator(SeedPlan(counts=counts)) as simulator:
        pipeline = StripePipeline(
            simulator=simulator,
            database_url=database_url,
            streams=selections("subscription_items"),
        )
        await pipeline.sync_to_the_end(client)
        [held] = simulator.objects("subscription_items").documents()
        bodies: list[bytes] = []
        simulator.on_event(lambda event: bodies.append(event.body))
        simulator.clock.advance(5)
        for quantity in (7, 8):
            simulator.update("subscription_items", held["id"], {"quantity": quantity})
        for number in order:
            await push(client, pipeline, pushed_as("event_json", bodies[number]))
        [row] = await documents(database_url, "subscription_items")
        assert row == {**held, "quantity": 8}


async def test_a_rejected_record_counts_as_one_of_its_second(
    client: EngineClient, simulator: StripeSimulator, pipeline: StripePipeline
) -> None:
    await pipeline.sync_to_the_end(client)
    connection = await asyncpg.connect(pipeline.database_url)
    try:
        check = "CHECK (_raw_data ->> 'name' <> 'third')"
        await connection.execute(f"ALTER TABLE stripe.customers ADD CONSTRAINT no_third {check}")
        for body in reversed(_two_updates(simulator, "customers")):
            await push(client, pipeline, pushed_as("event_json", body))
        kept = await connection.fetch("SELECT attempts FROM stripe._pipesync_rejected")
    finally:
        await connection.close()
    # The older one did not replace it: the object was looked up, and rejected once more.
    assert [row["attempts"] for row in kept] == [2]
    assert "second" not in {
        row["name"] for row in await documents(pipeline.database_url, "customers")
    }
