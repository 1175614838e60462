"""Lists inside objects whose rest cannot be read."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import structlog
from aiohttp import web

from engine_server.connectors.stripe.api.client import StripeClient
from engine_server.connectors.stripe.api.errors import RequestFailed
from engine_server.connectors.stripe.api.stripe_api import StripeApi
from engine_server.errors import ConnectionFailed
from tests.engine_server.connectors.stripe.nested import (
    ids,
    invoice,
    items_url,
    lines_url,
    numbered,
    records,
    subscription,
)
from tests.engine_server.connectors.stripe.reading import QUICK, config_for
from tests.stripe_simulator import errors, faults
from tests.stripe_simulator.simulator import StripeSimulator

LINES = lines_url("in_1")


@pytest.fixture
async def simulator() -> AsyncIterator[StripeSimulator]:
    async with StripeSimulator() as simulator:
        yield simulator


@pytest.fixture
async def client(simulator: StripeSimulator) -> AsyncIterator[StripeClient]:
    async with StripeApi(QUICK).client(config_for(simulator)) as client:
        yield client


def answer(body: Any) -> faults.Fault:
    """Respond with this JSON."""

    async def fault(_request: web.Request, _serve: faults.Serve) -> web.StreamResponse:
        return web.json_response(body)

    return fault


def after_first(fault: faults.Fault) -> faults.Fault:
    """Let one request through, then apply the fault to all."""
    count = 0

    async def later(request: web.Request, serve: faults.Serve) -> web.StreamResponse:
        nonlocal count
        count += 1
        return await (serve(request) if count == 1 else fault(request, serve))

    return later


@pytest.mark.parametrize(
    "fault",
    [
        faults.refuse(errors.rate_limited("endpoint-rate")),
        faults.refuse(errors.server_error(500)),
        faults.html(502),
        faults.truncated_body(),
        faults.connection_reset(),
    ],
)
async def test_transient_failures_are_retried_in_the_middle_of_a_list(
    simulator: StripeSimulator, client: StripeClient, fault: faults.Fault
) -> None:
    simulator.faults.add(after_first(fault), path=LINES, times=3)
    [emitted] = await records(client, [invoice(simulator, 250)])
    assert ids(emitted["lines"]["data"]) == ids(numbered("il_in_1_", 250))
    assert len(simulator.requests) == 5


async def test_a_permanent_failure_raises_stripes_message(
    simulator: StripeSimulator, client: StripeClient
) -> None:
    simulator.faults.add(faults.refuse(errors.server_error(500)), path=LINES, times=None)
    with pytest.raises(RequestFailed, match="answered 500 to GET /v1/invoices/in_1/lines: An unkn"):
        await records(client, [invoice(simulator, 11)])


async def test_a_refused_key_fails_the_connection(
    simulator: StripeSimulator, client: StripeClient
) -> None:
    simulator.faults.add(faults.refuse(errors.unknown_key("sk_test_revoked_key")), path=LINES)
    with pytest.raises(ConnectionFailed, match="Invalid API Key"):
        await records(client, [invoice(simulator, 11)])


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/v1/invoices/in_1/lines",
        "//example.com/v1/invoices/in_1/lines",
        "http://[",
        "/v3/invoices/in_1/lines",
        "/v1/../admin",
        "/v1/%2e%2e/admin",
        "v1/invoices/in_1/lines",
        "",
        None,
    ],
)
async def test_a_list_with_a_foreign_url_is_refused_and_not_requested(
    simulator: StripeSimulator, client: StripeClient, url: str | None
) -> None:
    listed = invoice(simulator, 11)
    listed["lines"]["url"] = url
    with pytest.raises(RequestFailed, match="which is no path of the API") as caught:
        await records(client, [listed])
    assert repr(url) in caught.value.message
    assert len(simulator.requests) == 0


@pytest.mark.parametrize(
    "body",
    [
        {"id": "in_1", "object": "invoice"},
        {"object": "list", "data": None, "has_more": False},
        {"object": "list", "data": ["il_1"], "has_more": False},
        {"object": "list", "data": []},
        ["il_1"],
        None,
    ],
)
async def test_a_response_that_is_no_list_fails_by_name(
    simulator: StripeSimulator, client: StripeClient, body: Any
) -> None:
    simulator.faults.add(answer(body), path=LINES)
    with pytest.raises(RequestFailed, match=f"GET {LINES} was not answered with a list of objects"):
        await records(client, [invoice(simulator, 11)])


async def test_a_list_without_data_fails_by_name(
    simulator: StripeSimulator, client: StripeClient
) -> None:
    listed = invoice(simulator, 11)
    listed["lines"]["data"] = None
    with pytest.raises(RequestFailed, match=f"the list of {LINES} inside an object has no data"):
        await records(client, [listed])


async def test_a_list_that_continues_after_an_item_without_id_fails_by_name(
    simulator: StripeSimulator, client: StripeClient
) -> None:
    listed = invoice(simulator, 11)
    del listed["lines"]["data"][-1]["id"]
    with pytest.raises(
        RequestFailed, match=f"list of {LINES} continues after an item without an id"
    ):
        await records(client, [listed])
    assert len(simulator.requests) == 0


async def test_a_server_that_repeats_a_page_for_ever_fails_by_name(
    simulator: StripeSimulator, client: StripeClient
) -> None:
    page = {"object": "list", "data": numbered("il_in_1_", 20), "has_more": True}
    simulator.faults.add(answer(page), path=LINES, times=None)
    with pytest.raises(RequestFailed, match=f"GET {LINES} promises more and brings the same items"):
        await records(client, [invoice(simulator, 30)])
    assert len(simulator.requests) == 2


async def test_a_deleted_object_is_emitted_with_its_known_items(
    simulator: StripeSimulator, client: StripeClient
) -> None:
    """Its deletion follows as an event; known items stay."""
    gone = errors.resource_missing(404, "invoice", "in_1", "invoice")
    listed = [invoice(simulator, 250), invoice(simulator, 25, "in_2")]
    simulator.faults.add(after_first(faults.refuse(gone)), path=LINES, times=None)
    with structlog.testing.capture_logs() as logs:
        emitted, other = await records(client, listed)
    assert ids(emitted["lines"]["data"]) == ids(numbered("il_in_1_", 110))
    assert emitted["lines"]["has_more"] is True
    assert (len(other["lines"]["data"]), other["lines"]["has_more"]) == (25, False)
    [line] = logs
    assert (line["event"], line["path"]) == ("nested_list_gone", LINES)
    assert "No such invoice: 'in_1'" in line["error"]


async def test_an_object_named_in_the_query_may_be_deleted_as_well(
    simulator: StripeSimulator, client: StripeClient
) -> None:
    gone = errors.resource_missing(400, "subscription", "sub_1", "subscription")
    simulator.faults.add(faults.refuse(gone))
    with structlog.testing.capture_logs() as logs:
        [emitted] = await records(client, [subscription(simulator, 11)], "subscriptions")
    assert (len(emitted["items"]["data"]), emitted["items"]["has_more"]) == (10, True)
    assert [line["event"] for line in logs] == ["nested_list_gone"]


@pytest.mark.parametrize("deleted", [1, 4, 10])
async def test_items_deleted_while_a_list_is_read_lose_no_other_item(
    simulator: StripeSimulator, client: StripeClient, deleted: int
) -> None:
    items = numbered("si_sub_1_", 25)
    listed = subscription(simulator, 25)
    simulator.nest(items_url("sub_1"), items[: 10 - deleted] + items[10:])
    [emitted] = await records(client, [listed], "subscriptions")
    assert ids(emitted["items"]["data"]) == ids(items[: 10 - deleted] + items[10:])
    assert emitted["items"]["has_more"] is False
    assert len(simulator.requests) == deleted + 1


async def test_one_list_that_fails_ends_the_others(
    simulator: StripeSimulator, client: StripeClient
) -> None:
    stalled = asyncio.Event()
    simulator.faults.add(faults.stall(stalled), path=lines_url("in_2"))

    async def fail_last(_request: web.Request, _serve: faults.Serve) -> web.StreamResponse:
        await simulator.requests.wait_for(lines_url("in_2"))
        return web.json_response({"object": "invoice"})

    simulator.faults.add(fail_last, path=LINES)
    before = asyncio.all_tasks()
    with pytest.raises(RequestFailed, match="was not answered with a list of objects"):
        await records(client, [invoice(simulator, 11), invoice(simulator, 11, "in_2")])
    assert our_tasks(since=before) == []


async def test_a_read_that_is_cancelled_leaves_no_task_behind(
    simulator: StripeSimulator, client: StripeClient
) -> None:
    simulator.faults.add(faults.stall(asyncio.Event()), times=None)
    before = asyncio.all_tasks()
    reading = asyncio.create_task(
        records(client, [invoice(simulator, 11, f"in_{n}") for n in range(10)])
    )
    await simulator.requests.wait_for("/v1/invoices/*/lines", 8)
    assert our_tasks(since=before | {reading}) != []
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert our_tasks(since=before) == []


def our_tasks(*, since: set[asyncio.Task[Any]]) -> list[str]:
    """Return the tasks started since then to complete lists, without the simulator's."""
    coroutines = [repr(task.get_coro()) for task in asyncio.all_tasks() - since]
    return [name for name in coroutines if "_complete_all" in name or "records" in name]
