"""Lists inside objects."""

import aiohttp
import pytest

from tests.stripe_simulator.rate_limits import RateLimits
from tests.stripe_simulator.simulator import StripeSimulator

Client = aiohttp.ClientSession


async def ids(client: Client, url: str) -> list[str]:
    """Return the ids on the first page of a list."""
    async with client.get(url, params={"limit": "100"}) as response:
        assert response.status == 200, await response.text()
        return [item["id"] for item in (await response.json())["data"]]


async def test_lists_of_one_path_are_told_apart_by_their_queries(
    simulator: StripeSimulator, client: Client
) -> None:
    simulator.nest("/v1/subscription_items?subscription=sub_1", [{"id": "si_1"}])
    simulator.nest("/v1/subscription_items?subscription=sub_2", [{"id": "si_2"}, {"id": "si_3"}])
    assert await ids(client, "/v1/subscription_items?subscription=sub_1") == ["si_1"]
    assert await ids(client, "/v1/subscription_items?subscription=sub_2") == ["si_2", "si_3"]


async def test_a_list_that_is_nested_again_is_what_it_is_now(
    simulator: StripeSimulator, client: Client
) -> None:
    url = "/v1/invoices/in_1/lines"
    simulator.nest(url, [{"id": "il_1"}])
    embedded = simulator.nest(url, [{"id": "il_2"}, {"id": "il_3"}])
    assert [item["id"] for item in embedded["data"]] == ["il_2", "il_3"]
    assert (embedded["has_more"], embedded["total_count"]) == (False, 2)
    assert await ids(client, url) == ["il_2", "il_3"]


async def test_a_list_that_no_object_names_is_an_unknown_url(client: Client) -> None:
    async with client.get("/v1/invoices/in_none/lines") as response:
        assert response.status == 404


@pytest.mark.parametrize(
    "url", ["/v1/invoices/in_{}/lines", "/v1/subscription_items?subscription=sub_{}"]
)
async def test_all_lists_of_one_kind_share_one_rate(
    simulator: StripeSimulator, client: Client, url: str
) -> None:
    simulator.limit_rate(RateLimits(per_endpoint=2))
    statuses = []
    for number in range(3):
        simulator.nest(url.format(number), [])
        async with client.get(url.format(number)) as response:
            statuses.append(response.status)
    assert statuses == [200, 200, 429]
