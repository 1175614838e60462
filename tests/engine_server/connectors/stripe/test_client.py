import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import structlog
from aiohttp import web

from engine_server.connectors.stripe.api.errors import RequestFailed
from engine_server.connectors.stripe.api.retry import RetryPolicy
from engine_server.connectors.stripe.api.stripe_api import StripeApi
from engine_server.errors import ConnectionFailed
from tests.engine_server.connectors.stripe.reading import QUICK, config_for
from tests.stripe_simulator import errors, faults
from tests.stripe_simulator.seeds.plan import SeedPlan
from tests.stripe_simulator.simulator import StripeSimulator

PATH = "/v1/customers"


@pytest.fixture
async def simulator() -> AsyncIterator[StripeSimulator]:
    async with StripeSimulator(SeedPlan(counts={"customers": 3})) as simulator:
        yield simulator


@pytest.fixture
def logs() -> Iterator[list[Any]]:
    with structlog.testing.capture_logs() as captured:
        yield captured


async def get(
    simulator: StripeSimulator, policy: RetryPolicy = QUICK, **config: Any
) -> list[dict[str, Any]]:
    async with StripeApi(policy).client(config_for(simulator, **config)) as client:
        answer = await client.get(PATH, {"limit": "2"})
    objects: list[dict[str, Any]] = answer.body["data"]
    return objects


async def empty_list(_request: web.Request, _serve: faults.Serve) -> web.StreamResponse:
    return web.json_response({"object": "list", "data": [], "has_more": False})


@pytest.mark.parametrize(
    "fault",
    [
        faults.refuse(errors.rate_limited("global-rate")),
        faults.refuse(errors.server_error(500)),
        faults.refuse(errors.server_error(503)),
        faults.refuse(errors.invalid_request(409, "locked", code="lock_timeout")),
        faults.html(502),
        faults.html(200),
        faults.connection_reset(),
        faults.truncated_body(),
    ],
)
async def test_transient_failures_are_retried(
    simulator: StripeSimulator, fault: faults.Fault
) -> None:
    simulator.faults.add(fault, times=2)
    assert len(await get(simulator)) == 2
    assert len(simulator.requests) == 3


async def test_a_stalled_response_times_out_and_is_retried(simulator: StripeSimulator) -> None:
    released = asyncio.Event()
    simulator.faults.add(faults.stall(released))
    policy = RetryPolicy(first_delay=0.001, timeout=0.2)
    assert len(await get(simulator, policy)) == 2
    released.set()


async def test_a_retry_is_one_log_line_with_the_reason_of_the_rate_limit(
    simulator: StripeSimulator, logs: list[Any]
) -> None:
    simulator.faults.add(faults.refuse(errors.rate_limited("endpoint-rate", retry_after=0.01)))
    await get(simulator)
    [line] = logs
    assert line["event"] == "stripe_request_retried"
    assert 0.01 <= line["delay"] <= 0.0125
    assert line["error"].endswith(
        f"; request_id: {line['request_id']}; rate_limit_reason: endpoint-rate"
    )
    assert line["request_id"].startswith("req_")
    expected = {
        "attempt": 1,
        "status": 429,
        "path": PATH,
        "rate_limit_reason": "endpoint-rate",
    }
    assert expected.items() <= line.items()


async def test_attempts_are_bounded_and_the_last_error_has_all_details(
    simulator: StripeSimulator,
) -> None:
    simulator.faults.add(faults.refuse(errors.rate_limited("resource-specific")), times=None)
    with pytest.raises(RequestFailed) as caught:
        await get(simulator)
    assert len(simulator.requests) == QUICK.rate_limited_attempts
    message = caught.value.message
    assert "answered 429 to GET /v1/customers: Request rate limit exceeded" in message
    assert "request_id: req_" in message
    assert message.endswith("rate_limit_reason: resource-specific")


async def test_a_refused_request_is_not_repeated(simulator: StripeSimulator) -> None:
    simulator.faults.add(faults.refuse(errors.invalid_request(400, "no", param="limit")))
    with pytest.raises(RequestFailed, match=r"answered 400 to GET /v1/customers: no") as caught:
        await get(simulator)
    assert (caught.value.status, caught.value.param) == (400, "limit")
    assert len(simulator.requests) == 1


async def test_stripe_should_retry_false_ends_the_attempts(simulator: StripeSimulator) -> None:
    refusal = errors.server_error(500)
    refusal.headers["Stripe-Should-Retry"] = "false"
    simulator.faults.add(faults.refuse(refusal))
    with pytest.raises(RequestFailed):
        await get(simulator)
    assert len(simulator.requests) == 1


async def test_a_bad_key_fails_the_connection_at_once(simulator: StripeSimulator) -> None:
    with pytest.raises(ConnectionFailed, match="Invalid API Key provided"):
        await get(simulator, api_key="sk_test_wrong_key")
    assert len(simulator.requests) == 1


async def test_an_api_that_echoes_the_key_does_not_get_it_into_errors_or_logs(
    simulator: StripeSimulator, logs: list[Any]
) -> None:
    echo = errors.server_error(500)
    echo.error["message"] = f"cannot serve {simulator.api_key}"
    simulator.faults.add(faults.refuse(echo), times=None)
    with pytest.raises(RequestFailed) as caught:
        await get(simulator)
    assert simulator.api_key not in str(caught.value) + repr(logs)
    assert "cannot serve ********" in caught.value.message


async def test_an_unreachable_api_is_named_after_few_attempts(
    unused_tcp_port: int, simulator: StripeSimulator, logs: list[Any]
) -> None:
    base_url = f"http://127.0.0.1:{unused_tcp_port}"
    with pytest.raises(ConnectionFailed, match=f"cannot reach {base_url}"):
        await get(simulator, base_url=base_url)
    assert len(logs) == QUICK.connect_attempts - 1


async def test_requests_carry_key_version_and_connected_account(
    simulator: StripeSimulator,
) -> None:
    simulator.faults.add(empty_list)
    simulator.connect("acct_connected")
    await get(simulator, api_version="2024-06-20", stripe_account="acct_connected")
    [request] = simulator.requests
    expected = {
        "authorization": f"Bearer {simulator.api_key}",
        "stripe-version": "2024-06-20",
        "stripe-account": "acct_connected",
    }
    assert expected.items() <= request.headers.items()


async def test_a_redirect_is_not_followed(simulator: StripeSimulator) -> None:
    moved = errors.Refusal(302, {"message": "elsewhere"}, {"Location": "http://127.0.0.1:1/"})
    simulator.faults.add(faults.refuse(moved))
    with pytest.raises(RequestFailed, match="answered 302"):
        await get(simulator)
