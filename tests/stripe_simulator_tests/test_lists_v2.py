"""Pages of v2 lists."""

import aiohttp
import pytest

from tests.stripe_simulator.simulator import StripeSimulator

Client = aiohttp.ClientSession
PATH = "/v2/core/accounts"


def fill(simulator: StripeSimulator, count: int) -> None:
    """Put accounts ``acct_0``, ``acct_1``, ..., a day apart, with times in the format of v2."""
    for index in range(count):
        document = {"id": f"acct_{index}", "created": f"2026-01-{index + 1:02}T00:00:00.000Z"}
        simulator.objects("v2_core_accounts").put(document)


async def test_pages_follow_each_other_by_next_page_url(
    simulator: StripeSimulator, client: Client
) -> None:
    fill(simulator, 25)
    seen: list[str] = []
    url: str | None = f"{PATH}?limit=10"
    pages = 0
    while url is not None:
        async with client.get(url) as response:
            page = await response.json()
        seen += [item["id"] for item in page["data"]]
        url = page["next_page_url"]
        pages += 1
    assert seen == [f"acct_{index}" for index in reversed(range(25))]
    assert pages == 3


async def test_twenty_objects_a_page_are_the_most(
    simulator: StripeSimulator, client: Client
) -> None:
    fill(simulator, 25)
    async with client.get(PATH) as response:
        assert len((await response.json())["data"]) == 20
    async with client.get(f"{PATH}?limit=21") as response:
        assert response.status == 400


async def test_an_empty_list_has_no_next_page(client: Client) -> None:
    async with client.get(PATH) as response:
        assert await response.json() == {
            "data": [],
            "next_page_url": None,
            "previous_page_url": None,
        }


@pytest.mark.parametrize("token", ["nonsense", "W10=", "e30="])
async def test_a_made_up_page_token_is_refused(client: Client, token: str) -> None:
    async with client.get(PATH, params={"page": token}) as response:
        assert response.status == 400
        assert (await response.json())["error"]["code"] == "invalid_page_token"


async def test_closed_financial_accounts_are_listed_only_when_all_are_asked_for(
    simulator: StripeSimulator, client: Client
) -> None:
    accounts = simulator.objects("v2_money_management_financial_accounts")
    accounts.put({"id": "fa_closed", "created": "2026-01-01T00:00:00Z"}, listed=False)
    path = "/v2/money_management/financial_accounts"
    everything = {"statuses[0]": "closed", "statuses[1]": "open", "statuses[2]": "pending"}
    async with client.get(path) as response:
        assert (await response.json())["data"] == []
    async with client.get(path, params=everything) as response:
        assert len((await response.json())["data"]) == 1
