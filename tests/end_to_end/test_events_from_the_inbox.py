"""Events that the service receives by HTTP: of another API version, of parts, and of cut lists."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.end_to_end.command import PipelinesCommand
from tests.end_to_end.tables import assert_tables_equal, documents
from tests.end_to_end.test_webhook_inbox import until_applied
from tests.processes import ServerProcess
from tests.stripe_simulator.simulator import StripeSimulator

STREAMS = ("customers", "products", "subscriptions", "subscription_items")


@pytest.fixture
async def simulator() -> AsyncIterator[StripeSimulator]:
    async with StripeSimulator() as simulator:
        yield simulator


def _subscribe(simulator: StripeSimulator, items: int) -> str:
    price, customer = simulator.create("prices")["id"], simulator.create("customers")["id"]
    fields = {"customer": customer, "items": [{"price": price}] * items}
    return str(simulator.create("subscriptions", fields)["id"])


@pytest.mark.parametrize("version", ["2020-08-27", None])
async def test_tables_are_as_the_account_is(
    simulator: StripeSimulator,
    service: ServerProcess,
    service_database_url: str,
    database_url: str,
    version: str | None,
) -> None:
    if version is not None:
        simulator.set_default_version(version)
    simulator.tell_bare_lists()
    subscription, other = _subscribe(simulator, 25), _subscribe(simulator, 12)
    product = simulator.create("products")["id"]
    [customer, *_] = simulator.objects("customers").documents()
    endpoint = simulator.register_webhook(f"{service.http_address}/webhooks/acme")
    pipelines = PipelinesCommand(
        service=service.address, simulator=simulator, database_url=database_url
    )
    secret = f"webhook_secret={endpoint['secret']}"
    created = await pipelines.create("acme", STREAMS, "--source-config", secret)
    assert created.exit_code == 0, created.stderr
    synced = await pipelines("sync_batch", "acme", "--loop", "0")
    assert synced.exit_code == 0, synced.stderr
    items = [
        item["id"]
        for item in simulator.objects("subscription_items").documents()
        if item["subscription"] == subscription
    ]
    gone: list[dict[str, Any]] = [{"id": one, "deleted": True} for one in items[3:]]
    told: list[bytes] = []
    simulator.on_event(lambda event: told.append(event.body))
    # All in one second, or nearly.
    simulator.update("subscriptions", subscription, {"items": gone})
    simulator.update("subscriptions", other, {"metadata": {"seats": "3"}})
    simulator.update("products", product, {"name": "second"})
    simulator.update("products", product, {"name": "third"})
    simulator.objects("customers").put({**customer, "default_source": "card_1"})
    card = {"id": "card_1", "object": "card", "customer": customer["id"]}
    simulator.tell("customer.source.created", card)
    await simulator.deliveries.settled()
    await until_applied(service_database_url, len(told))
    await assert_tables_equal(simulator, database_url, STREAMS[:2])
    held = {row["id"]: row for row in await documents(database_url, "subscriptions")}
    assert held[other]["metadata"]["seats"] == "3"
    # The list in a row is whole.
    assert [len(held[name]["items"]["data"]) for name in (subscription, other)] == [3, 12]
    rows = {row["id"]: row for row in await documents(database_url, "subscription_items")}
    assert {name for name, row in rows.items() if row.get("deleted")} == set(items[3:])
    shown = {one["id"]: one for one in simulator.objects("subscription_items").documents()}
    assert {name: row for name, row in rows.items() if "deleted" not in row} == shown
