"""Faults on request, as a client sees them."""

import asyncio
import time

import aiohttp
import pytest

from tests.stripe_simulator import errors, faults
from tests.stripe_simulator.simulator import StripeSimulator

Client = aiohttp.ClientSession


async def status(client: Client, path: str = "/v1/customers") -> int:
    """Return the status of an answer that is read to its end."""
    async with client.get(path) as response:
        await response.read()
        return response.status


async def test_the_next_requests_fail_and_the_one_after_them_does_not(
    simulator: StripeSimulator, client: Client
) -> None:
    simulator.faults.add(faults.refuse(errors.server_error(500)), times=2)
    assert [await status(client) for _ in range(3)] == [500, 500, 200]


async def test_only_requests_to_the_path_fail(simulator: StripeSimulator, client: Client) -> None:
    simulator.faults.add(faults.refuse(errors.server_error(503)), path="/v1/issuing/*", times=None)
    assert await status(client, "/v1/issuing/cards") == 503
    assert await status(client, "/v1/issuing/tokens") == 503
    assert await status(client, "/v1/customers") == 200


async def test_a_permanent_refusal_says_why(simulator: StripeSimulator, client: Client) -> None:
    reason = "Your account is not set up to use Issuing."
    refusal = errors.permission_denied(reason)
    simulator.faults.add(faults.refuse(refusal), path="/v1/issuing/cards", times=None)
    for _ in range(3):
        async with client.get("/v1/issuing/cards") as response:
            assert response.status == 403
            assert (await response.json())["error"]["message"] == reason
            assert response.headers["Request-Id"]


async def test_a_rate_limit_can_be_made_up(simulator: StripeSimulator, client: Client) -> None:
    simulator.faults.add(faults.refuse(errors.rate_limited("endpoint-concurrency", 2)))
    async with client.get("/v1/customers") as response:
        assert response.status == 429
        assert response.headers["Stripe-Rate-Limited-Reason"] == "endpoint-concurrency"
        assert response.headers["Retry-After"] == "2"


async def test_a_proxy_answers_in_html(simulator: StripeSimulator, client: Client) -> None:
    simulator.faults.add(faults.html(502))
    async with client.get("/v1/customers") as response:
        assert (response.status, response.content_type) == (502, "text/html")


async def test_a_connection_is_reset(simulator: StripeSimulator, client: Client) -> None:
    # aiohttp's client retries once by itself.
    simulator.faults.add(faults.connection_reset(), times=2)
    with pytest.raises(aiohttp.ClientOSError):
        await status(client)
    assert [request.status for request in simulator.requests] == [0, 0]
    assert await status(client) == 200


async def test_a_body_ends_early(simulator: StripeSimulator, client: Client) -> None:
    simulator.faults.add(faults.truncated_body())
    with pytest.raises(aiohttp.ClientPayloadError):
        await status(client)
    assert await status(client) == 200


async def test_an_answer_waits_until_it_is_released(
    simulator: StripeSimulator, client: Client
) -> None:
    released = asyncio.Event()
    simulator.faults.add(faults.stall(released))
    answer = asyncio.create_task(status(client))
    await simulator.requests.wait_for("/v1/customers")
    assert await status(client) == 200
    assert not answer.done()
    released.set()
    assert await answer == 200


async def test_stopping_does_not_wait_for_a_stalled_request() -> None:
    async with StripeSimulator() as simulator:
        simulator.faults.add(faults.stall(asyncio.Event()))
        headers = {"Authorization": f"Bearer {simulator.api_key}"}
        async with Client(simulator.base_url, headers=headers) as client:
            answer = asyncio.create_task(status(client))
            await simulator.requests.wait_for("/v1/customers")
            await simulator.__aexit__(None, None, None)
            with pytest.raises(aiohttp.ClientConnectionError):
                await answer


async def test_an_answer_comes_later(simulator: StripeSimulator, client: Client) -> None:
    simulator.faults.add(faults.latency(0.05))
    begun = time.monotonic()
    assert await status(client) == 200
    assert time.monotonic() - begun >= 0.05


async def test_jitter_lets_answers_overtake_each_other(
    simulator: StripeSimulator, client: Client
) -> None:
    simulator.faults.add(faults.jittered_latency(0, 0.05, seed=1), times=None)
    answered: list[int] = []

    async def ask(number: int) -> None:
        await status(client)
        answered.append(number)

    await asyncio.gather(*(ask(number) for number in range(10)))
    assert sorted(answered) == list(range(10))
    assert answered != list(range(10))


async def test_only_the_first_request_of_each_connection_meets_a_fault(
    simulator: StripeSimulator, client: Client
) -> None:
    fault = faults.first_on_each_connection(faults.refuse(errors.server_error(500)))
    simulator.faults.add(fault, times=None)
    assert [await status(client) for _ in range(3)] == [500, 200, 200]
    async with aiohttp.ClientSession(simulator.base_url, headers=client.headers) as another:
        assert [await status(another) for _ in range(2)] == [500, 200]


async def test_latency_and_a_refusal_combine(simulator: StripeSimulator, client: Client) -> None:
    simulator.faults.add(faults.latency(0.05))
    simulator.faults.add(faults.refuse(errors.server_error(500)))
    begun = time.monotonic()
    assert await status(client) == 500
    assert time.monotonic() - begun >= 0.05
    assert await status(client) == 200


async def test_a_share_of_the_requests_fails_at_random_and_repeatably(
    simulator: StripeSimulator, client: Client
) -> None:
    some = [faults.refuse(errors.server_error(500)), faults.refuse(errors.server_error(503))]
    runs = []
    for _ in range(2):
        simulator.faults.clear()
        simulator.faults.add(faults.at_random(some, share=0.2, seed=1), times=None)
        runs.append([await status(client) for _ in range(100)])
    assert runs[0] == runs[1]
    assert set(runs[0]) == {200, 500, 503}
    assert 10 <= sum(found != 200 for found in runs[0]) <= 30


async def test_cleared_faults_happen_no_more(simulator: StripeSimulator, client: Client) -> None:
    simulator.faults.add(faults.refuse(errors.server_error(500)), times=None)
    simulator.faults.clear()
    assert await status(client) == 200
