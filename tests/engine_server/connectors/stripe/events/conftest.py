"""An empty account, and a client of it."""

from collections.abc import AsyncIterator

import pytest

from engine_server.connectors.stripe.api.client import StripeClient
from engine_server.connectors.stripe.api.stripe_api import StripeApi
from tests.engine_server.connectors.stripe.reading import QUICK, config_for
from tests.stripe_simulator.simulator import StripeSimulator


@pytest.fixture
async def simulator() -> AsyncIterator[StripeSimulator]:
    """Yield an empty account."""
    async with StripeSimulator() as simulator:
        yield simulator


@pytest.fixture
async def client(simulator: StripeSimulator) -> AsyncIterator[StripeClient]:
    """Yield a client of the simulator."""
    async with StripeApi(QUICK).client(config_for(simulator)) as client:
        yield client
