"""Reader of a simulated Stripe account without the product, for comparison."""

import asyncio
import time

import aiohttp

from tests.benchmarks.stripe_account import API_KEY, PAGE_SIZE, Account

_HEADERS = {"Authorization": f"Bearer {API_KEY}"}
_CONNECTIONS = 16
_PAGES_TO_TIME = 2_000


async def plain_seconds(account: Account, pages: int) -> float:
    """Return the seconds for the newest pages of a stream, each requested after the one before."""
    params = {"limit": str(PAGE_SIZE)}
    async with aiohttp.ClientSession(account.base_url, headers=_HEADERS) as session:
        began = time.perf_counter()
        for _ in range(pages):
            async with session.get(_path(account), params=params) as response:
                page = await response.json()
            params["starting_after"] = page["data"][-1]["id"]
        return time.perf_counter() - began


async def pages_per_second(account: Account) -> float:
    """Return the pages a second that the account serves to concurrent readers without parsing."""
    pages = iter(range(_PAGES_TO_TIME))
    async with aiohttp.ClientSession(account.base_url, headers=_HEADERS) as session:

        async def ask() -> None:
            for _ in pages:
                async with session.get(
                    _path(account), params={"limit": str(PAGE_SIZE)}
                ) as response:
                    response.raise_for_status()
                    await response.read()

        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(_CONNECTIONS):
                group.create_task(ask())
        return _PAGES_TO_TIME / (time.perf_counter() - began)


def _path(account: Account) -> str:
    return f"/v1/{account.histories[0].stream}"
