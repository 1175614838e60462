"""Fixtures: a simulator for a test to fill, and a client with its key."""

from collections.abc import AsyncIterator

import aiohttp
import pytest

from tests.stripe_simulator.simulator import StripeSimulator


@pytest.fixture
async def simulator() -> AsyncIterator[StripeSimulator]:
    """Yield an empty account."""
    async with StripeSimulator() as simulator:
        yield simulator


@pytest.fixture
async def client(simulator: StripeSimulator) -> AsyncIterator[aiohttp.ClientSession]:
    """Yield a client of the account, with its key."""
    async with aiohttp.ClientSession(
        simulator.base_url,
        headers={"Authorization": f"Bearer {simulator.api_key}"},
        timeout=aiohttp.ClientTimeout(total=10),
    ) as client:
        yield client
