"""Items that left a list of which an event shows only the first ten, by every way in."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace

import asyncpg
import pytest

from engine_server.connectors.stripe.catalog.streams import api_version
from tests.end_to_end.listening import open_sync, quick_engine
from tests.end_to_end.stripe_pipeline import StripePipeline, selections
from tests.end_to_end.tables import documents
from tests.end_to_end.ways_in import WAYS_IN, WayIn, following
from tests.engine_server.connectors.stripe.events.builders import Document
from tests.stripe_simulator import faults
from tests.stripe_simulator.simulator import StripeSimulator

MANY = 25


@pytest.fixture
async def simulator() -> AsyncIterator[StripeSimulator]:
    async with StripeSimulator() as simulator:
        yield simulator


@pytest.fixture
def pipeline(simulator: StripeSimulator, database_url: str) -> StripePipeline:
    return StripePipeline(
        simulator=simulator,
        database_url=database_url,
        streams=selections("subscriptions", "subscription_items"),
    )


def subscribe(simulator: StripeSimulator, items: int) -> str:
    """Create a subscription with this many items, and return its id."""
    price = simulator.create("prices")["id"]
    customer = simulator.create("customers")["id"]
    made = simulator.create(
        "subscriptions", {"customer": customer, "items": [{"price": price}] * items}
    )
    return str(made["id"])


def items_of(simulator: StripeSimulator, subscription_id: str) -> list[Document]:
    """Return its current items, newest first: an object shows the first ten of them."""
    return [
        item
        for item in list(simulator.objects("subscription_items").documents())[::-1]
        if item["subscription"] == subscription_id
    ]


async def held(pipeline: StripePipeline) -> Mapping[str, bool]:
    """Return whether each item in the table is deleted."""
    rows = await documents(pipeline.database_url, "subscription_items")
    return {row["id"]: row.get("deleted", False) for row in rows}


@pytest.mark.parametrize("way", WAYS_IN)
@pytest.mark.parametrize("left", [MANY - 2, 10, 3])
async def test_an_item_that_no_event_shows_is_deleted(
    simulator: StripeSimulator, pipeline: StripePipeline, way: WayIn, left: int
) -> None:
    subscription, other = subscribe(simulator, MANY), subscribe(simulator, 12)
    items = items_of(simulator, subscription)
    # Some are shown by objects, and some by none.
    gone = [item["id"] for item in items[:1] + items[20:]][: MANY - left]
    gone += [item["id"] for item in items[1 : MANY - left - len(gone) + 1]]
    async with quick_engine() as client, following(client, pipeline, way) as apply:
        changes = [{"id": one, "deleted": True} for one in gone]
        simulator.update("subscriptions", subscription, {"items": changes})
        await apply()
        found = await held(pipeline)
    assert {name for name, is_deleted in found.items() if is_deleted} == set(gone)
    kept = [*items_of(simulator, subscription), *items_of(simulator, other)]
    assert {name for name, is_deleted in found.items() if not is_deleted} == {
        item["id"] for item in kept
    }
    assert len(gone) == MANY - left


@pytest.mark.parametrize("way", WAYS_IN)
async def test_changes_of_many_subscriptions_at_once_end_as_the_account_is(
    simulator: StripeSimulator, pipeline: StripePipeline, way: WayIn
) -> None:
    subscriptions = [subscribe(simulator, 14) for _ in range(4)]
    gone: list[str] = []

    def change() -> None:
        for subscription in subscriptions:
            for _ in range(3):
                last = items_of(simulator, subscription)[-1]["id"]
                price = simulator.objects("prices").ids()
                gone.append(last)
                simulator.update(
                    "subscriptions",
                    subscription,
                    {"items": [{"id": last, "deleted": True}, {"price": min(price)}]},
                )

    async with quick_engine() as client, following(client, pipeline, way) as apply:
        change()
        await apply()
        found = await held(pipeline)
    assert {name for name, is_deleted in found.items() if is_deleted} == set(gone)
    kept = {item["id"] for one in subscriptions for item in items_of(simulator, one)}
    assert {name for name, is_deleted in found.items() if not is_deleted} == kept


@pytest.mark.parametrize("version", [api_version(), "2020-08-27"])
@pytest.mark.parametrize("way", ["poll", "listener"])
async def test_a_list_need_not_say_that_it_was_cut(
    simulator: StripeSimulator, pipeline: StripePipeline, way: WayIn, version: str
) -> None:
    simulator.tell_bare_lists()
    simulator.set_default_version(version)
    subscription = subscribe(simulator, MANY)
    gone = [item["id"] for item in items_of(simulator, subscription)[4:]]
    changes = [{"id": one, "deleted": True} for one in gone]
    async with quick_engine() as client, following(client, pipeline, way) as apply:
        simulator.update("subscriptions", subscription, {"items": changes})
        await apply()
        found = await held(pipeline)
    assert {name for name, is_deleted in found.items() if is_deleted} == set(gone)


async def test_what_left_a_list_bears_the_second_of_the_event(
    simulator: StripeSimulator, pipeline: StripePipeline
) -> None:
    subscription = subscribe(simulator, MANY)
    gone = items_of(simulator, subscription)[20]["id"]
    events: list[Document] = []
    simulator.on_event(lambda event: events.append(json.loads(event.body)))
    async with quick_engine() as client, following(client, pipeline, "event_json") as apply:
        simulator.delete("subscription_items", gone)
        await apply()
    connection = await asyncpg.connect(pipeline.database_url)
    try:
        [row] = await connection.fetch(
            "SELECT extract(epoch FROM _updated_at)::bigint AS at, quantity, subscription "
            "FROM stripe.subscription_items WHERE deleted"
        )
    finally:
        await connection.close()
    # The known values of the item stay.
    assert tuple(row) == (events[-1]["created"], 1, subscription)


async def test_items_that_were_read_a_moment_ago_are_compared_though_not_yet_committed(
    simulator: StripeSimulator, pipeline: StripePipeline
) -> None:
    """Apply the events while the history before them is not yet committed."""
    subscription = subscribe(simulator, MANY)
    gone = items_of(simulator, subscription)[20]["id"]
    released = asyncio.Event()
    simulator.create("products")
    simulator.faults.add(faults.stall(released), path="/v1/products")
    pipeline = replace(
        pipeline.selecting(*selections("subscription_items", "products")),
        source={"websocket": True},
        destination={"batch_size": 50_000},
    )
    async with quick_engine() as client:
        async with open_sync(client, pipeline):
            await simulator.requests.wait_for("/v1/products")
            await simulator.requests.wait_for("/v1/subscription_items")
            simulator.delete("subscription_items", gone)
            released.set()
            await simulator.cli_sessions.settled()
            found = await held(pipeline)
        await simulator.cli_sockets.connected(0)
    assert [name for name, is_deleted in found.items() if is_deleted] == [gone]
