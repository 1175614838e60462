"""Odd pages on request."""

from typing import Any

import aiohttp
import pytest

from tests.stripe_simulator import odd_pages
from tests.stripe_simulator.faults import Fault
from tests.stripe_simulator.simulator import StripeSimulator

Client = aiohttp.ClientSession
CUSTOMERS = "/v1/customers"
ACCOUNTS = "/v2/core/accounts"


async def page_at(client: Client, url: str) -> tuple[int, Any]:
    async with client.get(url) as response:
        return response.status, await response.json()


async def sizes(client: Client, url: str | None) -> list[int]:
    """Return the number of objects on each of the first ten pages of a v2 list."""
    found: list[int] = []
    while url is not None and len(found) < 10:
        _, page = await page_at(client, url)
        found.append(len(page["data"]))
        url = page["next_page_url"]
    return found


async def test_an_empty_page_promises_more(simulator: StripeSimulator, client: Client) -> None:
    simulator.create("customers")
    simulator.faults.add(
        odd_pages.empty_page(lambda query: "created[lt]" not in query), path=CUSTOMERS, times=None
    )
    _, empty = await page_at(client, CUSTOMERS)
    assert (empty["data"], empty["has_more"]) == ([], True)
    _, page = await page_at(client, f"{CUSTOMERS}?created[lt]=99999999999")
    assert len(page["data"]) == 1


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (odd_pages.empty_last_page(), [10, 10, 5, 0]),
        (odd_pages.empty_middle_pages(), [10, 0, 10, 0, 5]),
        (odd_pages.pages_without_end(), [10, 10, 5, 0, 0, 0, 0, 0, 0, 0]),
    ],
)
async def test_empty_pages_of_a_v2_list(
    simulator: StripeSimulator, client: Client, fault: Fault, expected: list[int]
) -> None:
    for index in range(25):
        simulator.objects("v2_core_accounts").put({"id": f"acct_{index}", "created": index})
    simulator.faults.add(fault, path=ACCOUNTS, times=None)
    assert await sizes(client, f"{ACCOUNTS}?limit=10") == expected


async def test_a_list_that_needs_a_parameter(simulator: StripeSimulator, client: Client) -> None:
    simulator.faults.add(odd_pages.require("email", "limit"), path=CUSTOMERS, times=None)
    status, body = await page_at(client, CUSTOMERS)
    assert status == 400
    assert body["error"] == {
        "type": "invalid_request_error",
        "code": "parameter_missing",
        "doc_url": "https://stripe.com/docs/error-codes/parameter-missing",
        "message": "Must provide email or limit.",
    }
    status, _ = await page_at(client, f"{CUSTOMERS}?limit=1")
    assert status == 200
