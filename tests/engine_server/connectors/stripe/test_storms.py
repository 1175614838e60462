"""Reading while Stripe refuses three of ten calls: every object arrives, with few extra calls."""

from collections import Counter

import pytest

from engine_server.connectors.stripe.api.retry import RetryPolicy
from tests.engine_server.connectors.stripe import virtual_time
from tests.engine_server.connectors.stripe.reading import config_for, read, selected
from tests.stripe_simulator import errors, faults
from tests.stripe_simulator.seeds.plan import SeedPlan
from tests.stripe_simulator.simulator import StripeSimulator

STREAMS = ["customers", "products", "prices"]
PLAN = SeedPlan(counts={"customers": 9_000, "products": 2_000, "prices": 1_000})


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("rate_limit", [80.0, None])
def test_a_storm_on_every_list_loses_nothing_and_costs_few_calls(
    monkeypatch: pytest.MonkeyPatch, seed: int, rate_limit: float | None
) -> None:
    reasons = ["global-rate", "global-concurrency", "endpoint-rate", "endpoint-concurrency"]
    storm = [faults.refuse(errors.rate_limited(reason)) for reason in reasons]

    async def main() -> None:
        async with StripeSimulator(PLAN) as simulator:
            simulator.faults.add(faults.at_random(storm, share=0.3, seed=seed), times=None)
            simulator.faults.add(faults.jittered_latency(0.05, 0.2, seed=seed), times=None)
            reading = await read(
                config_for(simulator, rate_limit=rate_limit),
                [selected(name) for name in STREAMS],
                policy=RetryPolicy(),
            )
            expected = {(name, i) for name in STREAMS for i in simulator.objects(name).ids()}
            assert reading.ids == Counter(expected)
            assert {reading.turns(name)[-1] for name in STREAMS} == {"completed"}
            answered = sum(1 for request in simulator.requests if request.status == 200)
            # Besides the calls that returned a page, three for every seven of them, or a few more.
            assert len(simulator.requests) <= answered / 0.7 * 1.15

    virtual_time.run(monkeypatch, main())
