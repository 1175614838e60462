"""Stripe's own client against the simulator."""

from collections.abc import AsyncIterator

import pytest
import stripe

from tests.stripe_simulator.simulator import StripeSimulator


@pytest.fixture
async def package(simulator: StripeSimulator) -> AsyncIterator[stripe.StripeClient]:
    """Return the client, which encodes parameters in its own way."""
    http_client = stripe.AIOHTTPClient()
    yield stripe.StripeClient(
        simulator.api_key,
        base_addresses={"api": simulator.base_url},
        http_client=http_client,
        max_network_retries=0,
    )
    await http_client.close_async()  # type: ignore[no-untyped-call]  # The package does not type it.


async def test_objects_live_and_die_and_events_tell_of_it(package: stripe.StripeClient) -> None:
    price = await package.v1.prices.create_async({"currency": "usd", "unit_amount": 1_250})
    customer = await package.v1.customers.create_async(
        {"name": "Ada", "address": {"city": "London"}, "metadata": {"crm": "7"}}
    )
    assert customer.address is not None
    assert (customer.name, customer.address.city) == ("Ada", "London")
    subscription = await package.v1.subscriptions.create_async(
        {"customer": customer.id, "items": [{"price": price.id, "quantity": 3}]}
    )
    [item] = subscription["items"].data
    assert (subscription.customer, item.price.unit_amount, item.quantity) == (
        customer.id,
        1_250,
        3,
    )
    await package.v1.subscriptions.update_async(
        subscription.id, {"items": [{"id": item.id, "quantity": 4}]}
    )
    canceled = await package.v1.subscriptions.cancel_async(subscription.id)
    assert (canceled.status, canceled["items"].data[0].quantity) == ("canceled", 4)
    gone = await package.v1.customers.delete_async(customer.id)
    assert gone.deleted
    assert (await package.v1.customers.retrieve_async(customer.id)).deleted
    events = await package.v1.events.list_async(
        {"types": ["customer.subscription.updated", "customer.deleted"]}
    )
    [deleted, updated] = events.data
    assert (deleted.type, deleted.data.object["id"]) == ("customer.deleted", customer.id)
    assert updated.data.previous_attributes is not None
    assert updated.data.previous_attributes["items"]["data"][0]["quantity"] == 3


async def test_a_webhook_endpoint_is_managed(package: stripe.StripeClient) -> None:
    endpoints = package.v1.webhook_endpoints
    made = await endpoints.create_async(
        {"url": "https://example.com/", "enabled_events": ["charge.failed", "charge.succeeded"]}
    )
    assert made.secret is not None
    changed = await endpoints.update_async(made.id, {"disabled": True, "metadata": {"a": "b"}})
    assert (changed.status, changed.metadata.to_dict()) == ("disabled", {"a": "b"})
    [listed] = (await endpoints.list_async()).data
    assert listed.enabled_events == ["charge.failed", "charge.succeeded"]
    for _ in range(15):
        await endpoints.create_async({"url": "https://example.com/", "enabled_events": ["*"]})
    with pytest.raises(stripe.InvalidRequestError, match="maximum of 16"):
        await endpoints.create_async({"url": "https://example.com/", "enabled_events": ["*"]})
    assert (await endpoints.delete_async(made.id)).deleted
