"""Syncs by an engine whose clock differs from Stripe's, into tables."""

from collections.abc import AsyncIterator

import pytest

from tests.end_to_end.stripe_pipeline import StripePipeline, selections, served_engine
from tests.stripe_simulator import faults
from tests.stripe_simulator.simulator import StripeSimulator

CUSTOMERS = "/v1/customers"


@pytest.fixture(params=[3, 15, 3_600, -15, -3_600], ids=lambda skew: f"{skew}s")
async def simulator(request: pytest.FixtureRequest) -> AsyncIterator[StripeSimulator]:
    """Yield an account whose clock is behind the engine's by this many seconds."""
    async with StripeSimulator() as simulator:
        simulator.clock.skew = -request.param
        yield simulator


@pytest.mark.parametrize("run_ids", [("", ""), ("run 1", "run 2")], ids=["no run", "runs"])
async def test_an_object_made_right_after_the_read_is_in_the_table_after_the_next_sync(
    simulator: StripeSimulator, database_url: str, run_ids: tuple[str, str]
) -> None:
    first = simulator.create("customers")["id"]
    made: list[str] = []

    def make_another() -> None:
        made.append(simulator.create("customers")["id"])

    simulator.faults.add(faults.after_read(make_another), path=CUSTOMERS)
    pipeline = StripePipeline(
        simulator=simulator, database_url=database_url, streams=selections("customers")
    )
    async with served_engine() as client:
        [eof] = await pipeline.sync_to_the_end(client, run_id=run_ids[0])
        assert await pipeline.ids("customers") == {first}
        await pipeline.sync_to_the_end(client, run_id=run_ids[1], state=eof.ending_state)
    assert await pipeline.ids("customers") == {first, *made}
