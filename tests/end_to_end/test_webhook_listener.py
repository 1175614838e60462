"""Webhooks that a sync listens for: real requests, a real engine, a real database."""

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest
import structlog

from pipesync_client import EngineClient
from tests.end_to_end.listening import SECRET, free_port, open_sync, post, quick_engine, released
from tests.end_to_end.stripe_pipeline import StripePipeline, selections
from tests.end_to_end.tables import documents
from tests.engine_server.connectors.stripe.events.builders import event
from tests.stripe_simulator import faults
from tests.stripe_simulator.seeds.plan import SeedPlan
from tests.stripe_simulator.simulator import StripeSimulator

CUSTOMER = {"id": "cus_1", "object": "customer", "name": "Ada", "created": 1_760_000_000}
MADE = event("customer.created", CUSTOMER)


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
async def simulator() -> AsyncIterator[StripeSimulator]:
    async with StripeSimulator(SeedPlan(counts={"customers": 3})) as simulator:
        yield simulator


@pytest.fixture
def pipeline(simulator: StripeSimulator, database_url: str, port: int) -> StripePipeline:
    return StripePipeline(
        simulator=simulator,
        database_url=database_url,
        streams=selections("customers", "products"),
        source={"webhook_port": port, "webhook_secret": f"whsec_old,{SECRET}"},
    )


@pytest.fixture
async def client() -> AsyncIterator[EngineClient]:
    async with quick_engine() as client:
        yield client


async def test_a_webhook_is_in_the_table_when_it_is_answered(
    client: EngineClient, pipeline: StripePipeline, port: int
) -> None:
    async with open_sync(client, pipeline) as sync:
        await sync.history_read()
        with structlog.testing.capture_logs() as logs:
            assert await post(port, MADE) == (200, "committed")
        assert CUSTOMER in await documents(pipeline.database_url, "customers")
        assert await pipeline.ids("customers") == {
            "cus_1",
            *pipeline.simulator.objects("customers").ids(),
        }
        ended = event("customer.deleted", CUSTOMER, created=1_760_000_001)
        assert (await post(port, ended))[0] == 200
        assert {**CUSTOMER, "deleted": True} in await documents(pipeline.database_url, "customers")
    [received] = [line for line in logs if line["event"] == "event_received"]
    assert received["ingress"] == "webhook"
    assert (received["event_id"], received["event_type"]) == (MADE["id"], "customer.created")
    # Events make no checkpoints.
    states = [one.source_state for one in sync.messages if one.HasField("source_state")]
    assert {state.stream for state in states} == {"customers", "products"}
    await released(port)


async def test_what_is_no_webhook_of_stripes_is_refused_and_says_why(
    client: EngineClient, pipeline: StripePipeline, port: int
) -> None:
    async with open_sync(client, pipeline) as sync:
        await sync.history_read()
        for method in ("GET", "PUT", "DELETE"):
            assert (await post(port, MADE, method=method))[0] == 405
        async with (
            aiohttp.ClientSession() as http,
            http.get(f"http://127.0.0.1:{port}") as response,
        ):
            assert response.headers["Allow"] == "POST"
        assert await post(port, MADE, headers={}) == (
            401,
            "not shown to be from Stripe: it has no valid stripe-signature header",
        )
        status, text = await post(port, MADE, secret="whsec_other")
        assert (status, text.partition(":")[0]) == (401, "not shown to be from Stripe")
        assert await post(port, b"[]") == (400, "no event: it is not a JSON object")
        assert await post(port, b"{}") == (
            400,
            "no event: it lacks an id, a type or a creation time",
        )
        assert (await post(port, b" " * (1024 * 1024 + 1)))[0] == 413
        # The old secret is as good, while it is there; and none of all this hurt.
        assert (await post(port, MADE, secret="whsec_old"))[0] == 200
    assert "cus_1" in await pipeline.ids("customers")


async def test_what_happens_while_the_history_is_read_is_applied_behind_it(
    client: EngineClient, pipeline: StripePipeline, port: int
) -> None:
    history = asyncio.Event()
    pipeline.simulator.faults.add(faults.stall(history), path="/v1/customers")
    async with open_sync(client, pipeline) as sync:
        await pipeline.simulator.requests.wait_for("/v1/customers")
        posted = asyncio.create_task(post(port, MADE))
        again = asyncio.create_task(post(port, MADE))
        await asyncio.wait([posted, again], timeout=0.3)
        assert not posted.done()
        assert await pipeline.ids("customers") == set()
        history.set()
        await sync.history_read()
        assert await posted == await again == (200, "committed")
    assert CUSTOMER in await documents(pipeline.database_url, "customers")
