"""Events of changes, and their lists."""

from typing import Any

import aiohttp
import pytest

from engine_server.connectors.stripe.catalog.streams import api_version
from tests.stripe_simulator.events import Event
from tests.stripe_simulator.simulator import StripeSimulator

Client = aiohttp.ClientSession
NOW = 1_700_000_000


async def listed(client: Client, query: str = "", **headers: str) -> list[dict[str, Any]]:
    """Return the events on a page."""
    async with client.get(f"/v1/events?{query}", headers=headers) as response:
        assert response.status == 200, await response.text()
        data: list[dict[str, Any]] = (await response.json())["data"]
        return data


async def types(client: Client, query: str = "") -> list[str]:
    """Return the types of the events on a page, newest first."""
    return [event["type"] for event in await listed(client, query)]


async def test_an_event_tells_the_object_as_it_was_then(
    simulator: StripeSimulator, client: Client
) -> None:
    simulator.clock.set(NOW + 0.9)
    customer = simulator.create("customers", {"name": "Ada"})
    updated = simulator.update("customers", customer["id"], {"name": "Grace"})
    simulator.delete("customers", customer["id"])
    deleted, changed, created = await listed(client)
    assert created == {
        "id": created["id"],
        "object": "event",
        "api_version": api_version(),
        "created": NOW,
        "data": {"object": customer},
        "livemode": False,
        "pending_webhooks": 0,
        "request": {"id": None, "idempotency_key": None},
        "type": "customer.created",
    }
    assert changed["data"] == {"object": updated, "previous_attributes": {"name": "Ada"}}
    assert (deleted["type"], deleted["data"]) == ("customer.deleted", {"object": updated})
    async with client.get(f"/v1/events/{changed['id']}") as response:
        assert await response.json() == changed


async def test_previous_attributes_tell_what_changed_of_a_hash(
    simulator: StripeSimulator, client: Client
) -> None:
    customer = simulator.create("customers", {"metadata": {"a": "1"}})
    changes = {"metadata": {"a": "2", "new": "3"}, "preferred_locales": ["fr"]}
    simulator.update("customers", customer["id"], changes)
    [changed, _] = await listed(client)
    assert changed["data"]["previous_attributes"] == {
        "metadata": {"a": "1", "new": None},
        "preferred_locales": customer["preferred_locales"],
    }


async def test_what_changes_nothing_is_no_event(simulator: StripeSimulator, client: Client) -> None:
    customer = simulator.create("customers", {"name": "Ada"})
    assert simulator.update("customers", customer["id"], {"name": "Ada"}) == customer
    assert await types(client) == ["customer.created"]


async def test_an_event_names_the_request_that_made_it(client: Client) -> None:
    headers = {"Idempotency-Key": "k1"}
    async with client.post("/v1/coupons", headers=headers) as response:
        request_id = response.headers["Request-Id"]
    [created] = await listed(client)
    assert created["request"] == {"id": request_id, "idempotency_key": "k1"}


async def test_events_have_the_types_that_stripe_gives_them(
    simulator: StripeSimulator, client: Client
) -> None:
    subscription = simulator.create("subscriptions")
    [item] = subscription["items"]["data"]
    simulator.update("subscription_items", item["id"], {"quantity": 8})
    simulator.delete("subscriptions", subscription["id"])
    invoice = simulator.create("invoices")
    simulator.update("invoices", invoice["id"], {"status": "paid"})
    simulator.create("charges", {"status": "succeeded"})
    intent = simulator.create("payment_intents", {"status": "requires_payment_method"})
    # Stripe has no payment_intent.updated.
    simulator.update("payment_intents", intent["id"], {"metadata": {"a": "b"}})
    simulator.update("payment_intents", intent["id"], {"status": "succeeded"})
    simulator.create("tax_ids")
    simulator.create("disputes")
    assert (await types(client, "limit=100"))[::-1] == [
        "customer.subscription.created",
        "customer.subscription.updated",
        "customer.subscription.deleted",
        "invoice.created",
        "invoice.updated",
        "invoice.paid",
        "charge.succeeded",
        "payment_intent.created",
        "payment_intent.succeeded",
        "customer.tax_id.created",
        "charge.dispute.created",
    ]


async def test_a_product_says_when_it_was_updated(
    simulator: StripeSimulator, client: Client
) -> None:
    simulator.clock.set(NOW)
    product = simulator.create("products", {"updated": NOW})
    simulator.clock.advance(5)
    assert simulator.update("products", product["id"], {"name": "New"})["updated"] == NOW + 5
    [changed, _] = await listed(client)
    assert changed["data"]["previous_attributes"]["updated"] == NOW


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("type=customer.created", ["customer.created"]),
        ("type=customer.*", ["customer.updated", "customer.created"]),
        ("types[]=coupon.created&types[]=customer.updated", ["customer.updated", "coupon.created"]),
        ("created[gt]=1700000000", ["customer.updated", "product.created"]),
        ("created[lte]=1700000000&type=c*", ["coupon.created", "customer.created"]),
        ("limit=1", ["customer.updated"]),
        ("limit=1&type=co*", ["coupon.created"]),
    ],
)
async def test_the_list_is_filtered(
    simulator: StripeSimulator, client: Client, query: str, expected: list[str]
) -> None:
    simulator.clock.set(NOW)
    customer = simulator.create("customers")
    simulator.create("coupons")
    simulator.clock.advance(1)
    simulator.create("products")
    simulator.update("customers", customer["id"], {"balance": 1})
    assert await types(client, query) == expected


@pytest.mark.parametrize("filtered", ["", "&type=customer.created"])
async def test_pages_follow_on_each_other_in_both_directions(
    simulator: StripeSimulator, client: Client, filtered: str
) -> None:
    for _ in range(5):
        simulator.create("customers")
        simulator.create("coupons")
    everything = [event["id"] for event in await listed(client, f"limit=100{filtered}")]
    assert len(everything) == 5 if filtered else len(everything) == 10
    for number, event_id in enumerate(everything):
        after = await listed(client, f"limit=2&starting_after={event_id}{filtered}")
        assert [event["id"] for event in after] == everything[number + 1 : number + 3]
        before = await listed(client, f"limit=2&ending_before={event_id}{filtered}")
        assert [event["id"] for event in before] == everything[max(0, number - 2) : number]


async def test_both_ways_to_name_types_at_once_are_refused(client: Client) -> None:
    async with client.get("/v1/events?type=a&types[]=b") as response:
        assert response.status == 400


async def test_events_show_up_late_and_out_of_order(
    simulator: StripeSimulator, client: Client
) -> None:
    simulator.clock.set(NOW)
    simulator.delay_events(10, seed=1)
    for _ in range(20):
        simulator.create("customers")
        simulator.clock.advance(1)
    shown: list[list[str]] = []
    for _ in range(11):
        shown.append([event["id"] for event in await listed(client, "limit=100")])
        simulator.clock.advance(1)
    assert len(shown[0]) < 20
    assert len(shown[-1]) == 20
    late = [number for number, event_id in enumerate(shown[-1]) if event_id not in shown[0]]
    # An event appeared before events that were already listed.
    assert late != list(range(len(late)))
    assert [event["created"] for event in await listed(client, "limit=100")] == list(
        range(NOW + 19, NOW - 1, -1)
    )


async def test_an_event_is_retrieved_before_lists_show_it(
    simulator: StripeSimulator, client: Client
) -> None:
    made: list[Event] = []
    simulator.on_event(made.append)
    simulator.clock.set(NOW)
    simulator.delay_events(10, seed=1)
    simulator.create("customers")
    assert await listed(client) == []
    async with client.get(f"/v1/events/{made[0].id}") as response:
        assert response.status == 200


async def test_events_are_kept_for_thirty_days(simulator: StripeSimulator, client: Client) -> None:
    simulator.clock.set(NOW)
    simulator.create("customers")
    simulator.clock.advance(1)
    simulator.create("coupons")
    simulator.clock.advance(30 * 86_400)
    assert await types(client) == ["coupon.created"]


async def test_events_of_a_connected_account_name_it(
    simulator: StripeSimulator, client: Client
) -> None:
    simulator.connect("acct_2")
    simulator.create("customers", account="acct_2")
    assert await listed(client) == []
    [created] = await listed(client, **{"Stripe-Account": "acct_2"})
    assert created["account"] == "acct_2"


async def test_an_event_of_any_shape_can_be_published(
    simulator: StripeSimulator, client: Client
) -> None:
    simulator.clock.set(NOW)
    event = {"id": "evt_old", "object": "event", "type": "ping", "created": NOW, "request": "req_1"}
    simulator.publish(event)
    assert await listed(client) == [event]


def test_an_old_api_version_gets_the_request_as_text() -> None:
    body = b'{"api_version":"2026-10-28.endive","request":{"id":"req_1","idempotency_key":null}}'
    event = Event(id="evt_1", type="ping", created=NOW, account=None, body=body)
    assert event.rendered(None) == body
    assert event.rendered("2016-07-06") == b'{"api_version":"2016-07-06","request":"req_1"}'


async def test_an_event_that_shows_up_late_stands_where_it_was_made_within_its_second(
    simulator: StripeSimulator, client: Client
) -> None:
    simulator.clock.set(NOW)
    simulator.delay_events(10, seed=2)
    made: list[Event] = []
    simulator.on_event(made.append)
    for _ in range(20):
        simulator.create("customers")
    simulator.clock.advance(5)
    shown_early = await listed(client, "limit=100")
    assert 0 < len(shown_early) < 20
    simulator.clock.advance(5)
    shown = [event["id"] for event in await listed(client, "limit=100")]
    assert shown == [event.id for event in reversed(made)]
