"""Restricted keys and expired keys."""

import aiohttp
import pytest

from tests.stripe_simulator.simulator import StripeSimulator

RESTRICTED = "rk_test_restricted"


async def get(simulator: StripeSimulator, key: str, path: str) -> tuple[int, dict[str, str]]:
    """Return the status, and the error if there is one."""
    headers = {"Authorization": f"Bearer {key}"}
    async with (
        aiohttp.ClientSession(headers=headers) as client,
        client.get(simulator.base_url + path) as response,
    ):
        return response.status, (await response.json()).get("error", {})


async def test_a_restricted_key_reads_what_it_may(simulator: StripeSimulator) -> None:
    simulator.restrict_key(RESTRICTED, may_read=["/v1/customers", "/v1/issuing/*"])
    for path in ("/v1/customers", "/v1/issuing/cards"):
        assert await get(simulator, RESTRICTED, path) == (200, {})


@pytest.mark.parametrize("path", ["/v1/credit_notes", "/v1/credit_notes/cn_1"])
async def test_a_missing_permission_is_named_and_the_key_is_not(
    simulator: StripeSimulator, path: str
) -> None:
    simulator.restrict_key(RESTRICTED, may_read=["/v1/customers"])
    status, error = await get(simulator, RESTRICTED, path)
    assert status == 403
    assert error["type"] == "invalid_request_error"
    assert "\"Credit Notes Read\" ('credit_note_read') permissions" in error["message"]
    assert f"on account '{simulator.account_id}'" in error["message"]
    assert RESTRICTED not in error["message"]


async def test_the_account_itself_needs_a_permission(simulator: StripeSimulator) -> None:
    simulator.restrict_key(RESTRICTED, may_read=["/v1/customers"])
    assert (await get(simulator, RESTRICTED, "/v1/account"))[0] == 403
    simulator.restrict_key(RESTRICTED, may_read=["/v1/account"])
    assert (await get(simulator, RESTRICTED, "/v1/account"))[0] == 200


async def test_an_expired_key_is_let_in_no_more(simulator: StripeSimulator) -> None:
    simulator.expire_key(simulator.api_key)
    status, error = await get(simulator, simulator.api_key, "/v1/customers")
    assert (status, error["code"]) == (401, "api_key_expired")
    assert error["message"].startswith("Expired API Key provided: sk_test_")
