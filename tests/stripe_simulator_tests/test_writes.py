"""Creating, updating and deleting through the API."""

from typing import Any

import aiohttp
import pytest

from engine_server.connectors.stripe.catalog.streams import load_resources
from tests.stripe_simulator.seeds.plan import SeedPlan
from tests.stripe_simulator.simulator import StripeSimulator

Client = aiohttp.ClientSession


async def call(
    client: Client, method: str, path: str, form: dict[str, str] | None = None, **headers: str
) -> tuple[int, dict[str, Any]]:
    """Return the status and JSON of an answer."""
    async with client.request(method, path, data=form, headers=headers) as response:
        return response.status, await response.json()


@pytest.mark.parametrize(
    "stream",
    [
        "charges",
        "coupons",
        "customers",
        "invoices",
        "payment_intents",
        "plans",
        "prices",
        "products",
        "subscriptions",
    ],
)
async def test_what_is_created_is_whole_listed_and_retrieved(
    simulator: StripeSimulator, client: Client, stream: str
) -> None:
    simulator.clock.set(1_700_000_000)
    status, created = await call(client, "POST", f"/v1/{stream}", {"metadata[crm]": "7"})
    assert (status, created["created"], created["metadata"]["crm"]) == (200, 1_700_000_000, "7")
    fields = load_resources()[stream].stream.json_schema["properties"]
    assert set(created) <= set(fields.keys())  # type: ignore[union-attr]
    assert await call(client, "GET", f"/v1/{stream}/{created['id']}") == (200, created)
    _, page = await call(client, "GET", f"/v1/{stream}")
    assert page["data"] == [created]


async def test_an_update_merges_metadata_and_replaces_the_rest(
    simulator: StripeSimulator, client: Client
) -> None:
    customer = simulator.create("customers", {"metadata": {"a": "1", "b": "2"}, "name": "Ada"})
    form = {"metadata[a]": "", "metadata[c]": "3", "name": "Grace", "balance": "5", "phone": ""}
    status, updated = await call(client, "POST", f"/v1/customers/{customer['id']}", form)
    assert status == 200
    expected = {key: value for key, value in customer["metadata"].items() if key != "a"}
    assert updated["metadata"] == expected | {"c": "3"}
    assert (updated["name"], updated["balance"], updated["phone"]) == ("Grace", 5, None)
    assert updated["created"] == customer["created"]


async def test_seeded_objects_and_created_ones_have_ids_of_their_own() -> None:
    plan = SeedPlan(counts={"customers": 3, "coupons": 3})
    async with StripeSimulator(plan) as simulator:
        for stream in plan.counts:
            before = simulator.objects(stream).ids()
            made = {simulator.create(stream)["id"] for _ in range(3)}
            assert len(made) == 3
            assert not made & before


@pytest.mark.parametrize("stream", ["customers", "products", "plans", "coupons", "invoices"])
async def test_what_is_deleted_is_no_more(
    simulator: StripeSimulator, client: Client, stream: str
) -> None:
    created = simulator.create(stream)
    path = f"/v1/{stream}/{created['id']}"
    gone = {"id": created["id"], "object": created["object"], "deleted": True}
    assert await call(client, "DELETE", path) == (200, gone)
    _, page = await call(client, "GET", f"/v1/{stream}")
    assert page["data"] == []
    # Only a deleted customer can still be retrieved, as deleted.
    status, answer = await call(client, "GET", path)
    assert (status, answer) == (200, gone) if stream == "customers" else status == 404
    status, answer = await call(client, "DELETE", path)
    assert (status, answer["error"]["code"]) == (404, "resource_missing")


@pytest.mark.parametrize("stream", ["prices", "charges", "payment_intents"])
async def test_what_the_api_cannot_delete_stays(
    simulator: StripeSimulator, client: Client, stream: str
) -> None:
    created = simulator.create(stream)
    status, _ = await call(client, "DELETE", f"/v1/{stream}/{created['id']}")
    assert status == 404
    assert created["id"] in simulator.objects(stream).ids()


async def test_only_a_draft_of_an_invoice_is_deleted(
    simulator: StripeSimulator, client: Client
) -> None:
    invoice = simulator.create("invoices", {"status": "open"})
    status, answer = await call(client, "DELETE", f"/v1/invoices/{invoice['id']}")
    assert (status, answer["error"]["message"]) == (400, "You can only delete draft invoices.")


async def test_a_subscription_that_is_deleted_is_canceled(
    simulator: StripeSimulator, client: Client
) -> None:
    simulator.clock.set(1_700_000_000)
    subscription = simulator.create("subscriptions")
    simulator.clock.advance(60)
    status, canceled = await call(client, "DELETE", f"/v1/subscriptions/{subscription['id']}")
    assert (status, canceled["status"], canceled["ended_at"]) == (200, "canceled", 1_700_000_060)
    _, shown = await call(client, "GET", "/v1/subscriptions")
    _, everything = await call(client, "GET", "/v1/subscriptions?status=all")
    assert (shown["data"], everything["data"]) == ([], [canceled])


async def test_items_are_added_changed_and_removed_with_their_subscription(
    simulator: StripeSimulator, client: Client
) -> None:
    first, second = simulator.create("prices"), simulator.create("prices")
    form = {"items[0][price]": first["id"], "items[0][quantity]": "2"}
    _, subscription = await call(client, "POST", "/v1/subscriptions", form)
    [item] = subscription["items"]["data"]
    assert (item["price"], item["quantity"]) == (first, 2)
    form = {
        "items[0][id]": item["id"],
        "items[0][deleted]": "true",
        "items[1][price]": second["id"],
    }
    _, subscription = await call(client, "POST", f"/v1/subscriptions/{subscription['id']}", form)
    [other] = subscription["items"]["data"]
    assert (other["price"], other["quantity"]) == (second, 1)
    form = {"subscription": subscription["id"], "price": first["id"]}
    _, third = await call(client, "POST", "/v1/subscription_items", form)
    await call(client, "POST", f"/v1/subscription_items/{other['id']}", {"quantity": "9"})
    _, page = await call(client, "GET", f"/v1/subscription_items?subscription={subscription['id']}")
    assert [(listed["id"], listed["quantity"]) for listed in page["data"]] == [
        (third["id"], 1),
        (other["id"], 9),
    ]
    await call(client, "DELETE", f"/v1/subscription_items/{other['id']}")
    _, subscription = await call(client, "GET", f"/v1/subscriptions/{subscription['id']}")
    assert [left["id"] for left in subscription["items"]["data"]] == [third["id"]]
    assert simulator.objects("subscription_items").ids() == {third["id"]}


async def test_items_of_a_seeded_subscription_are_as_good() -> None:
    async with StripeSimulator(SeedPlan(counts={"subscriptions": 2})) as simulator:
        [subscription, _] = simulator.objects("subscriptions").documents()
        [item] = subscription["items"]["data"]
        headers = {"Authorization": f"Bearer {simulator.api_key}"}
        async with Client(simulator.base_url, headers=headers) as client:
            url = subscription["items"]["url"]
            assert (await call(client, "GET", url))[1]["data"] == [item]
            path = f"/v1/subscription_items/{item['id']}"
            _, updated = await call(client, "POST", path, {"quantity": "70"})
            assert updated == item | {"quantity": 70}
            _, now = await call(client, "GET", f"/v1/subscriptions/{subscription['id']}")
            assert now["items"]["data"] == [updated]


async def test_a_subscription_carries_ten_of_its_items(simulator: StripeSimulator) -> None:
    price = simulator.create("prices")
    items = [{"price": price["id"]}] * 11
    subscription = simulator.create("subscriptions", {"items": items})
    assert (len(subscription["items"]["data"]), subscription["items"]["has_more"]) == (10, True)
    assert subscription["items"]["total_count"] == 11


async def test_an_account_changes_only_what_is_its_own(
    simulator: StripeSimulator, client: Client
) -> None:
    simulator.connect("acct_2")
    of_connected = {"Stripe-Account": "acct_2"}
    _, created = await call(client, "POST", "/v1/customers", {"name": "Ada"}, **of_connected)
    assert simulator.objects("customers", account="acct_2").ids() == {created["id"]}
    status, _ = await call(client, "POST", f"/v1/customers/{created['id']}", {"name": "Grace"})
    assert (status, simulator.objects("customers").ids()) == (404, set())


@pytest.mark.parametrize(
    ("form", "param"),
    [({"nmae": "Ada"}, "nmae"), ({"balance": "much"}, "balance")],
)
async def test_a_wrong_parameter_is_refused_by_name(
    client: Client, form: dict[str, str], param: str
) -> None:
    status, answer = await call(client, "POST", "/v1/customers", form)
    assert (status, answer["error"]["param"]) == (400, param)


async def test_an_id_that_is_taken_is_refused(client: Client) -> None:
    assert (await call(client, "POST", "/v1/coupons", {"id": "SUMMER"}))[0] == 200
    status, answer = await call(client, "POST", "/v1/coupons", {"id": "SUMMER"})
    assert (status, answer["error"]["code"]) == (400, "resource_already_exists")


async def test_a_retry_with_its_idempotency_key_changes_nothing_more(
    simulator: StripeSimulator, client: Client
) -> None:
    key = {"Idempotency-Key": "k1"}
    first = await call(client, "POST", "/v1/customers", {"name": "Ada"}, **key)
    assert await call(client, "POST", "/v1/customers", {"name": "Ada"}, **key) == first
    assert len(simulator.objects("customers")) == 1
    status, answer = await call(client, "POST", "/v1/customers", {"name": "Grace"}, **key)
    assert (status, answer["error"]["type"]) == (400, "idempotency_error")


async def test_a_restricted_key_changes_only_what_it_may(simulator: StripeSimulator) -> None:
    simulator.restrict_key("rk_test_1", may_read=["*"], may_write=["/v1/coupons"])
    headers = {"Authorization": "Bearer rk_test_1"}
    async with Client(simulator.base_url, headers=headers) as restricted:
        assert (await call(restricted, "POST", "/v1/coupons"))[0] == 200
        status, answer = await call(restricted, "POST", "/v1/customers")
    assert status == 403
    assert "\"Customers Write\" ('customer_write')" in answer["error"]["message"]
