"""Conformance of the Stripe source to the rules of every source."""

from collections.abc import AsyncIterator

import pytest

from engine_server.connectors.conformance import SourceConformance, SourceSubject
from engine_server.connectors.stripe.source import StripeSource
from tests.engine_server.connectors.stripe.reading import QUICK
from tests.stripe_simulator import faults
from tests.stripe_simulator.seeds.plan import SeedPlan
from tests.stripe_simulator.simulator import StripeSimulator

# Lists in time windows, in one second, by cursor, of a single page, and empty.
PLAN = SeedPlan(
    counts={"customers": 420, "products": 150, "coupons": 130, "prices": 5, "invoices": 0},
    same_second={"customers": 150},
)


class TestStripeSource(SourceConformance):
    @pytest.fixture(params=[0.0, 0.01], ids=["in order", "out of order"])
    async def subject(
        self, request: pytest.FixtureRequest, unused_tcp_port: int
    ) -> AsyncIterator[SourceSubject]:
        async with StripeSimulator(PLAN) as simulator:
            if request.param:
                latency = faults.jittered_latency(0.0, request.param, seed=3)
                simulator.faults.add(latency, times=None)
            config = {"api_key": simulator.api_key, "base_url": simulator.base_url}
            yield SourceSubject(
                connector=StripeSource(QUICK),
                config=config,
                unreachable={**config, "base_url": f"http://127.0.0.1:{unused_tcp_port}"},
                bad_configs={
                    "api_key": {**config, "api_key": "pk_test_public"},
                    "base_url": {**config, "base_url": "ftp://127.0.0.1"},
                    "account_id": {**config, "account_id": "me"},
                    "api_version": {**config, "api_version": ""},
                    "stripe_account": {**config, "stripe_account": "you"},
                    "rate_limit": {**config, "rate_limit": 0},
                    "max_concurrency": {**config, "max_concurrency": 0},
                    "backfill_limit": {**config, "backfill_limit": -1},
                    "webhook_url": {**config, "webhook_url": "http://example.com/webhooks"},
                },
                secrets={"api_key", "webhook_secret"},
                holds=PLAN.counts,
                fetches=lambda: len(simulator.requests),
            )


class TestStripeSourceThatFollowsEvents(TestStripeSource):
    @pytest.fixture
    async def subject(self) -> AsyncIterator[SourceSubject]:
        async with StripeSimulator(PLAN) as simulator:
            config = {
                "api_key": simulator.api_key,
                "base_url": simulator.base_url,
                "account_id": simulator.account_id,
                "poll_events": True,
            }
            yield SourceSubject(
                connector=StripeSource(QUICK),
                config=config,
                unreachable={**config, "base_url": "http://127.0.0.1:1"},
                bad_configs={"poll_events": {**config, "poll_events": "perhaps"}},
                secrets={"api_key", "webhook_secret"},
                holds=PLAN.counts,
                fetches=lambda: len(simulator.requests),
            )
