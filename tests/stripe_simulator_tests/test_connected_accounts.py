"""The account of a request, as chosen by the Stripe-Account header."""

import aiohttp
import pytest

from tests.stripe_simulator.seeds.plan import SeedPlan
from tests.stripe_simulator.simulator import StripeSimulator

Client = aiohttp.ClientSession
CONNECTED = "acct_connected"
OF_CONNECTED = {"Stripe-Account": CONNECTED}


async def test_the_header_selects_whose_objects_are_listed(
    simulator: StripeSimulator, client: Client
) -> None:
    simulator.connect(CONNECTED, SeedPlan(counts={"coupons": 2}))
    simulator.objects("coupons").put({"id": "SUMMER", "created": 1, "percent_off": 10})
    simulator.objects("coupons", account=CONNECTED).put(
        {"id": "SUMMER", "created": 1, "percent_off": 50}
    )
    async with client.get("/v1/coupons") as response:
        own = (await response.json())["data"]
    async with client.get("/v1/coupons", headers=OF_CONNECTED) as response:
        connected = (await response.json())["data"]
    async with client.get("/v1/coupons/SUMMER", headers=OF_CONNECTED) as response:
        assert await response.json() == connected[-1]
    assert [coupon["percent_off"] for coupon in own] == [10]
    assert (len(connected), connected[-1]["percent_off"]) == (3, 50)


async def test_the_account_is_the_one_of_the_header(
    simulator: StripeSimulator, client: Client
) -> None:
    simulator.connect(CONNECTED)
    for account_id in (simulator.account_id, CONNECTED):
        async with client.get("/v1/account", headers={"Stripe-Account": account_id}) as response:
            assert (await response.json())["id"] == account_id


@pytest.mark.parametrize(
    ("is_platform", "code", "message"),
    [
        (True, "account_invalid", "does not have access to account 'acct_other'"),
        (False, "platform_account_required", "Only Stripe Connect platforms can work with other"),
    ],
)
async def test_an_account_that_is_not_connected_is_refused(
    simulator: StripeSimulator, client: Client, is_platform: bool, code: str, message: str
) -> None:
    if is_platform:
        simulator.connect(CONNECTED)
    async with client.get("/v1/coupons", headers={"Stripe-Account": "acct_other"}) as response:
        assert response.status == 403
        error = (await response.json())["error"]
    assert error["code"] == code
    assert message in error["message"]
    assert simulator.api_key not in error["message"]
