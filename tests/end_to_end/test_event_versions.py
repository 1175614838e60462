"""Events in another API version than the rows: none of their payloads is ever written."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import structlog

from pipesync_client import EngineClient
from tests.end_to_end.listening import quick_engine
from tests.end_to_end.stripe_pipeline import StripePipeline, selections
from tests.end_to_end.tables import assert_tables_equal, documents
from tests.end_to_end.ways_in import PUSHED, WAYS_IN, WayIn, following
from tests.stripe_simulator import errors, faults
from tests.stripe_simulator.seeds.plan import SeedPlan
from tests.stripe_simulator.simulator import StripeSimulator

STREAMS = ("customers", "invoices", "products", "subscriptions", "subscription_items")
PLAN = SeedPlan(
    counts={"customers": 3, "invoices": 2, "prices": 3, "products": 2, "subscriptions": 2}
)
OLD = "2020-08-27"
TAXES: list[dict[str, Any]] = [{"amount": 7, "tax_behavior": "exclusive"}]


@pytest.fixture
async def simulator() -> AsyncIterator[StripeSimulator]:
    async with StripeSimulator(PLAN) as simulator:
        simulator.set_default_version(OLD)
        simulator.cli_sessions.own_version = OLD
        simulator.cli_sessions.sends_latest = False
        yield simulator


@pytest.fixture
def pipeline(simulator: StripeSimulator, database_url: str) -> StripePipeline:
    return StripePipeline(
        simulator=simulator, database_url=database_url, streams=selections(*STREAMS)
    )


def _invoice(simulator: StripeSimulator) -> str:
    """Create an invoice with fields that the old version represents differently."""
    subscription = next(iter(sorted(simulator.objects("subscriptions").ids())))
    parent = {"subscription_details": {"subscription": subscription}}
    made: dict[str, Any] = simulator.create("invoices", {"parent": parent, "total_taxes": TAXES})
    object_id: str = made["id"]
    return object_id


def _object_of(simulator: StripeSimulator, stream: str, **fields: Any) -> dict[str, Any]:
    return next(
        one
        for one in simulator.objects(stream).documents()
        if all(one.get(name) == value for name, value in fields.items())
    )


@pytest.fixture
async def client() -> AsyncIterator[EngineClient]:
    async with quick_engine() as client:
        yield client


@pytest.mark.parametrize("way_in", WAYS_IN)
async def test_rows_are_as_lists_show_them_whatever_version_events_come_in(
    client: EngineClient, simulator: StripeSimulator, pipeline: StripePipeline, way_in: WayIn
) -> None:
    invoice = _invoice(simulator)
    ended = _object_of(simulator, "customers")
    active = _object_of(simulator, "subscriptions", status="active")
    async with following(client, pipeline, way_in) as apply:
        asked = len(simulator.requests)
        # A void invoice never changes again: only the version of its events makes it be looked up.
        simulator.update("invoices", invoice, {"status": "open"})
        simulator.update("invoices", invoice, {"status": "void"})
        simulator.update("products", _object_of(simulator, "products")["id"], {"name": "New"})
        simulator.update("subscriptions", active["id"], {"metadata": {"seats": "3"}})
        simulator.delete("customers", ended["id"])
        await apply()
        looked_up = [
            request.path
            for request in list(simulator.requests)[asked:]
            if request.path.startswith(("/v1/invoices/", "/v1/products/", "/v1/customers/"))
        ]
    if way_in not in ("listener", "websocket"):
        # One look-up serves all events of the batch; a deleted object needs none.
        assert sorted(looked_up) == sorted(
            [f"/v1/invoices/{invoice}", f"/v1/products/{_object_of(simulator, 'products')['id']}"]
        )
    await assert_tables_equal(simulator, pipeline.database_url, STREAMS[1:])
    rows = {row["id"]: row for row in await documents(pipeline.database_url, "customers")}
    assert rows[ended["id"]] == {**ended, "deleted": True}
    [voided] = [
        row for row in await documents(pipeline.database_url, "invoices") if row["id"] == invoice
    ]
    assert (voided["status"], voided["total_taxes"], "tax" in voided) == ("void", TAXES, False)


@pytest.mark.parametrize("way_in", ["poll", *PUSHED, "recent_events"])
async def test_an_object_is_looked_up_once_whatever_else_happens_between_its_events(
    client: EngineClient, simulator: StripeSimulator, pipeline: StripePipeline, way_in: WayIn
) -> None:
    invoice, product = _invoice(simulator), _object_of(simulator, "products")["id"]
    customer = _object_of(simulator, "customers")["id"]
    async with following(client, pipeline, way_in) as apply:
        asked = len(simulator.requests)
        for number in range(4):
            simulator.update("invoices", invoice, {"description": f"No. {number}"})
            simulator.update("products", product, {"name": f"No. {number}"})
            simulator.update("customers", customer, {"name": f"No. {number}"})
        await apply()
        looked_up = [
            one.path for one in list(simulator.requests)[asked:] if one.path.count("/") == 3
        ]
    await assert_tables_equal(simulator, pipeline.database_url, STREAMS)
    assert sorted(looked_up) == [
        f"/v1/customers/{customer}",
        f"/v1/invoices/{invoice}",
        f"/v1/products/{product}",
    ]


@pytest.mark.parametrize("way_in", WAYS_IN)
async def test_items_that_a_subscription_has_no_more_are_deleted_with_all_that_is_known(
    client: EngineClient, simulator: StripeSimulator, pipeline: StripePipeline, way_in: WayIn
) -> None:
    active = _object_of(simulator, "subscriptions", status="active")
    [item] = active["items"]["data"]
    price = _object_of(simulator, "prices")["id"]
    async with following(client, pipeline, way_in) as apply:
        changes = [{"id": item["id"], "deleted": True}, {"price": price}]
        simulator.update("subscriptions", active["id"], {"items": changes})
        await apply()
    rows = {row["id"]: row for row in await documents(pipeline.database_url, "subscription_items")}
    assert rows[item["id"]] == {**item, "deleted": True}
    alive = {name: row for name, row in rows.items() if "deleted" not in row}
    shown = simulator.objects("subscription_items").documents()
    assert alive == {one["id"]: one for one in shown}


@pytest.mark.parametrize("way_in", WAYS_IN)
async def test_a_row_stays_as_it_is_where_the_key_may_not_look_its_object_up(
    client: EngineClient, simulator: StripeSimulator, pipeline: StripePipeline, way_in: WayIn
) -> None:
    invoice = _invoice(simulator)
    refused = errors.permission_missing("rk_test_1", "acct_simulator", "/v1/invoices", "read")
    async with following(client, pipeline, way_in) as apply:
        before = await documents(pipeline.database_url, "invoices")
        simulator.faults.add(faults.refuse(refused), path="/v1/invoices*", times=None)
        with structlog.testing.capture_logs() as logs:
            simulator.update("invoices", invoice, {"status": "void"})
            product = _object_of(simulator, "products")["id"]
            simulator.update("products", product, {"name": "New"})
            await apply()
    assert await documents(pipeline.database_url, "invoices") == before
    await assert_tables_equal(simulator, pipeline.database_url, ["products"])
    assert any("does not have the required permissions" in str(line) for line in logs)


async def test_a_later_version_of_the_same_release_needs_no_look_up(
    client: EngineClient, simulator: StripeSimulator, pipeline: StripePipeline
) -> None:
    simulator.set_default_version("2099-01-01.endive")
    async with following(client, pipeline, "poll") as apply:
        asked = len(simulator.requests)
        product = _object_of(simulator, "products")["id"]
        simulator.update("products", product, {"name": "New"})
        await apply()
        later = list(simulator.requests)[asked:]
    assert {request.path for request in later} == {"/v1/events"}
    await assert_tables_equal(simulator, pipeline.database_url, ["products"])
