"""Authentication, and answers of single URLs."""

import aiohttp
import pytest

from engine_server.connectors.stripe.catalog.streams import load_resources
from tests.stripe_simulator.simulator import StripeSimulator

Client = aiohttp.ClientSession


async def test_an_unknown_key_is_refused_without_showing_it(simulator: StripeSimulator) -> None:
    async with (
        Client(headers={"Authorization": "Bearer sk_test_somebody_elses_key"}) as client,
        client.get(f"{simulator.base_url}/v1/customers") as response,
    ):
        assert response.status == 401
        error = (await response.json())["error"]
    assert error["type"] == "invalid_request_error"
    assert error["message"].startswith("Invalid API Key provided: sk_test_***")
    assert "somebody" not in error["message"]


async def test_no_key_is_refused(simulator: StripeSimulator) -> None:
    async with Client() as client, client.get(f"{simulator.base_url}/v1/customers") as response:
        assert response.status == 401


async def test_basic_auth_takes_the_key_as_its_user(simulator: StripeSimulator) -> None:
    async with (
        Client(
            headers={"Authorization": aiohttp.encode_basic_auth(simulator.api_key, "")}
        ) as client,
        client.get(f"{simulator.base_url}/v1/customers") as response,
    ):
        assert response.status == 200


@pytest.mark.parametrize("path", ["/v1/customers", "/v1/customers/cus_gone", "/v1/nowhere"])
async def test_every_answer_has_a_request_id_of_its_own(client: Client, path: str) -> None:
    async with client.get(path) as first, client.get(path) as second:
        ids = {first.headers["Request-Id"], second.headers["Request-Id"]}
    assert len(ids) == 2
    assert all(request_id.startswith("req_") for request_id in ids)


async def test_the_account_says_who_it_is(simulator: StripeSimulator, client: Client) -> None:
    async with client.get("/v1/account") as response:
        account = await response.json()
    assert (account["object"], account["id"]) == ("account", simulator.account_id)
    assert isinstance(account["created"], int)


async def test_an_object_is_retrieved_by_its_id(simulator: StripeSimulator, client: Client) -> None:
    session = {"id": "cs_1", "object": "checkout.session", "created": 1}
    simulator.objects("checkout_sessions").put(session)
    async with client.get("/v1/checkout/sessions/cs_1") as response:
        assert await response.json() == session


async def test_an_id_that_names_nothing_is_missing(client: Client) -> None:
    async with client.get("/v1/customers/cus_gone") as response:
        assert response.status == 404
        error = (await response.json())["error"]
    assert (error["code"], error["param"]) == ("resource_missing", "id")
    assert error["message"] == "No such customer: 'cus_gone'"


async def test_a_url_that_is_none_is_not_found(client: Client) -> None:
    async with client.get("/v1/nowhere") as response:
        assert response.status == 404
        assert "Unrecognized request URL (GET: /v1/nowhere)" in await response.text()


async def test_every_stream_of_the_catalog_has_a_list(client: Client) -> None:
    for resource in load_resources().values():
        if not resource.has_history:
            continue
        async with client.get(resource.path, params=dict(resource.list_params)) as response:
            assert response.status == 200, resource.path
            assert (await response.json())["data"] == []


async def test_replacing_an_object_keeps_its_place(
    simulator: StripeSimulator, client: Client
) -> None:
    customers = simulator.objects("customers")
    customers.put({"id": "cus_1", "created": 1, "name": "before"})
    customers.put({"id": "cus_2", "created": 1})
    customers.put({"id": "cus_1", "created": 1, "name": "after"})
    async with client.get("/v1/customers") as response:
        data = (await response.json())["data"]
    assert [item["id"] for item in data] == ["cus_2", "cus_1"]
    assert data[1]["name"] == "after"


async def test_a_deleted_object_is_gone(simulator: StripeSimulator, client: Client) -> None:
    customers = simulator.objects("customers")
    customers.put({"id": "cus_1", "created": 1})
    customers.delete("cus_1")
    async with client.get("/v1/customers") as response:
        assert (await response.json())["data"] == []
    async with client.get("/v1/customers/cus_1") as response:
        assert response.status == 404


async def test_requests_are_taken_down_in_order(simulator: StripeSimulator, client: Client) -> None:
    simulator.connect("acct_2")
    async with client.get("/v1/customers?limit=5", headers={"Stripe-Account": "acct_2"}):
        pass
    async with client.get("/v1/nowhere"):
        pass
    first, second = simulator.requests
    assert (first.method, first.path, first.query) == ("GET", "/v1/customers", {"limit": "5"})
    assert (first.status, first.headers["stripe-account"]) == (200, "acct_2")
    assert (second.path, second.status) == ("/v1/nowhere", 404)
    assert simulator.requests.of("/v1/cust*") == [first]
