"""Entitlements of customers."""

import aiohttp

from tests.stripe_simulator.simulator import StripeSimulator

Client = aiohttp.ClientSession
ENTITLEMENTS = "/v1/entitlements/active_entitlements"
SUMMARY = "entitlements.active_entitlement_summary.updated"


async def test_a_summary_is_cut_and_the_list_of_the_customer_is_whole(
    simulator: StripeSimulator, client: Client
) -> None:
    entitled = simulator.entitle("cus_1", [f"feature-{number}" for number in range(12)])
    async with client.get(f"/v1/events?type={SUMMARY}") as response:
        [event] = (await response.json())["data"]
    summary = event["data"]["object"]
    assert "id" not in summary
    assert (summary["customer"], summary["entitlements"]["has_more"]) == ("cus_1", True)
    assert summary["entitlements"]["data"] == entitled[:10]
    # The URL in the summary is no endpoint.
    async with client.get(summary["entitlements"]["url"]) as response:
        assert response.status == 404
    async with client.get(f"{ENTITLEMENTS}?customer=cus_1&limit=100") as response:
        assert (await response.json())["data"] == entitled


async def test_what_is_taken_away_is_gone(simulator: StripeSimulator, client: Client) -> None:
    old, kept = simulator.entitle("cus_1", ["old", "kept"])
    simulator.entitle("cus_2", ["old"])
    assert simulator.entitle("cus_1", ["kept", "new"])[0] == kept
    for path, status in ((old["id"], 404), (kept["id"], 200)):
        async with client.get(f"{ENTITLEMENTS}/{path}") as response:
            assert response.status == status
    async with client.get(f"{ENTITLEMENTS}?customer=cus_2") as response:
        assert len((await response.json())["data"]) == 1
    assert len(simulator.objects("entitlements_active_entitlements")) == 3
