import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from engine_server.connectors.stripe.api.errors import RequestFailed
from engine_server.connectors.stripe.api.stripe_api import StripeApi
from engine_server.errors import ConnectionFailed
from tests.engine_server.connectors.stripe.reading import QUICK, config_for
from tests.stripe_simulator import errors, faults
from tests.stripe_simulator.seeds.plan import SeedPlan
from tests.stripe_simulator.simulator import StripeSimulator

PATH = "/v1/customers"
FORM = {"name": "Zoë & Söhne", "metadata[made_by]": "pipesync"}


@pytest.fixture
async def simulator() -> AsyncIterator[StripeSimulator]:
    async with StripeSimulator(SeedPlan(counts={"customers": 3})) as simulator:
        yield simulator


async def lose_the_answer(request: web.Request, serve: faults.Serve) -> web.StreamResponse:
    """Apply the request, then close the connection without a response."""
    await serve(request)
    assert request.transport is not None
    request.transport.abort()
    raise asyncio.CancelledError


async def test_posted_fields_arrive(simulator: StripeSimulator) -> None:
    async with StripeApi(QUICK).client(config_for(simulator)) as client:
        made = (await client.post(PATH, FORM)).body
        assert (made["name"], made["metadata"]["made_by"]) == ("Zoë & Söhne", "pipesync")
        found = await client.get(f"{PATH}/{made['id']}", {}, endpoint=PATH)
    assert found.body == made


async def test_with_an_idempotency_key_a_lost_response_creates_no_second_object(
    simulator: StripeSimulator,
) -> None:
    simulator.faults.add(lose_the_answer, times=2)
    async with StripeApi(QUICK).client(config_for(simulator)) as client:
        made = await client.post(PATH, FORM, idempotency_key="once")
    assert len(simulator.objects("customers")) == 4
    assert made.body["name"] == FORM["name"]
    keys = [request.headers["idempotency-key"] for request in simulator.requests]
    assert keys == ["once"] * 3


@pytest.mark.parametrize(
    "fault",
    [
        lose_the_answer,
        faults.refuse(errors.server_error(500)),
        faults.refuse(errors.invalid_request(409, "locked", code="lock_timeout")),
    ],
)
async def test_without_an_idempotency_key_an_uncertain_request_is_not_retried(
    simulator: StripeSimulator, fault: faults.Fault
) -> None:
    async with StripeApi(QUICK).client(config_for(simulator)) as client:
        await client.get(PATH, {})
        simulator.faults.add(fault)
        with pytest.raises(RequestFailed, match="POST /v1/customers"):
            await client.post(PATH, FORM)
    assert len(simulator.requests) == 2


async def test_a_rate_limited_request_is_retried_even_without_a_key(
    simulator: StripeSimulator,
) -> None:
    simulator.faults.add(faults.refuse(errors.rate_limited("global-rate")), times=2)
    async with StripeApi(QUICK).client(config_for(simulator)) as client:
        await client.post(PATH, FORM)
    assert len(simulator.objects("customers")) == 4
    assert len(simulator.requests) == 3


async def test_a_deletion_is_retried_until_there_is_a_response(
    simulator: StripeSimulator,
) -> None:
    async with StripeApi(QUICK).client(config_for(simulator)) as client:
        made = (await client.post(PATH, FORM)).body
        simulator.faults.add(faults.refuse(errors.server_error(500)))
        gone = (await client.delete(f"{PATH}/{made['id']}")).body
    assert gone == {"id": made["id"], "object": "customer", "deleted": True}
    assert [request.method for request in simulator.requests] == ["POST", "DELETE", "DELETE"]


async def test_a_retried_deletion_may_find_the_object_deleted(
    simulator: StripeSimulator,
) -> None:
    endpoint = simulator.register_webhook("https://pipesync.example/webhooks")
    simulator.faults.add(lose_the_answer)
    async with StripeApi(QUICK).client(config_for(simulator)) as client:
        with pytest.raises(RequestFailed, match="answered 404 to DELETE /v1/webhook_e") as caught:
            await client.delete(f"/v1/webhook_endpoints/{endpoint['id']}")
    assert caught.value.stripe_code == "resource_missing"
    assert len(simulator.requests) == 2


async def test_a_bad_key_fails_the_connection_when_writing_too(simulator: StripeSimulator) -> None:
    config = config_for(simulator, api_key="sk_test_wrong_key")
    async with StripeApi(QUICK).client(config) as client:
        with pytest.raises(ConnectionFailed, match="Invalid API Key provided"):
            await client.post(PATH, FORM, idempotency_key="once")
    assert len(simulator.requests) == 1
