"""An empty account, and the way to it."""

from collections.abc import AsyncIterator

import pytest

from engine_server.connectors.stripe.client import StripeClient
from tests.engine_server.connectors.stripe.reading import QUICK, config_for
from tests.stripe_simulator.simulator import StripeSimulator


@pytest.fixture
async def simulator() -> AsyncIterator[StripeSimulator]:
    """It holds nothing yet."""
    async with StripeSimulator() as simulator:
        yield simulator


@pytest.fixture
async def client(simulator: StripeSimulator) -> AsyncIterator[StripeClient]:
    """Asks the simulator."""
    async with StripeClient(config_for(simulator), QUICK) as client:
        yield client
