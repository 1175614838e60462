"""A simulated account whose pages arrive in realistic ways."""

from collections.abc import AsyncIterator

import pytest

from tests.stripe_simulator import faults
from tests.stripe_simulator.seeds.plan import SeedPlan
from tests.stripe_simulator.simulator import StripeSimulator


@pytest.fixture(params=["empty_page", "resource_missing"])
async def simulator(request: pytest.FixtureRequest) -> AsyncIterator[StripeSimulator]:
    """Yield an account of a few thousand objects, many of one second, with unordered pages."""
    plan = SeedPlan(
        counts={"customers": 2_600, "products": 250, "prices": 90},
        same_second={"customers": 350, "products": 120},
    )
    async with StripeSimulator(plan, outside_cursor=request.param) as simulator:
        simulator.faults.add(faults.jittered_latency(0, 0.004, seed=1), times=None)
        yield simulator
