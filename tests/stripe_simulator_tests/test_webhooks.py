"""Webhook endpoints and their deliveries."""

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from tests.loopback_server import LoopbackServer
from tests.stripe_simulator.simulator import StripeSimulator
from tests.stripe_simulator_tests.webhook_receiver import WebhookReceiver

Client = aiohttp.ClientSession
ENDPOINTS = "/v1/webhook_endpoints"
FORM = {"url": "https://example.com/hook", "enabled_events[]": "*"}


@pytest.fixture
async def receiver() -> AsyncIterator[WebhookReceiver]:
    async with WebhookReceiver() as receiver:
        yield receiver


def register(
    simulator: StripeSimulator, receiver: WebhookReceiver, *events: str, **options: Any
) -> str:
    """Register the receiver, and return its endpoint's id."""
    endpoint = simulator.register_webhook(receiver.url, events or ("*",), **options)
    receiver.secret = endpoint["secret"]
    endpoint_id: str = endpoint["id"]
    return endpoint_id


async def call(
    client: Client, method: str, path: str, form: dict[str, str] | None = None
) -> tuple[int, dict[str, Any]]:
    """Return the status and JSON of an answer."""
    async with client.request(method, path, data=form) as response:
        return response.status, await response.json()


async def test_an_endpoint_is_made_found_changed_and_removed(client: Client) -> None:
    form = {**FORM, "metadata[owner]": "me", "api_version": "2024-06-20"}
    status, made = await call(client, "POST", ENDPOINTS, form)
    assert (status, made.pop("secret")[:6]) == (200, "whsec_")
    assert (made["status"], made["api_version"]) == ("enabled", "2024-06-20")
    assert (made["enabled_events"], made["metadata"]) == (["*"], {"owner": "me"})
    path = f"{ENDPOINTS}/{made['id']}"
    assert await call(client, "GET", path) == (200, made)
    _, page = await call(client, "GET", ENDPOINTS)
    assert page["data"] == [made]
    _, disabled = await call(client, "POST", path, {"disabled": "true", "url": "http://[::1]/"})
    assert (disabled["status"], disabled["url"]) == ("disabled", "http://[::1]/")
    _, described = await call(client, "POST", path, {"description": "mine"})
    assert (described["status"], described["description"]) == ("disabled", "mine")
    _, enabled = await call(client, "POST", path, {"disabled": "false"})
    assert enabled["status"] == "enabled"
    gone = {"id": made["id"], "object": "webhook_endpoint", "deleted": True}
    assert await call(client, "DELETE", path) == (200, gone)
    assert (await call(client, "GET", path))[0] == 404


async def test_an_account_has_sixteen_endpoints_at_most(client: Client) -> None:
    made = [await call(client, "POST", ENDPOINTS, FORM) for _ in range(16)]
    assert {status for status, _ in made} == {200}
    status, answer = await call(client, "POST", ENDPOINTS, FORM)
    assert (status, answer["error"]["type"]) == (400, "invalid_request_error")
    assert answer["error"]["message"] == (
        "You have reached the maximum of 16 test webhook endpoints."
    )
    await call(client, "DELETE", f"{ENDPOINTS}/{made[0][1]['id']}")
    assert (await call(client, "POST", ENDPOINTS, FORM))[0] == 200


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"url": None}, "url"),
        ({"enabled_events[]": None}, "enabled_events"),
        ({"url": "example.com/hook"}, "url"),
        ({"enabled_events[]": "customer.exploded"}, "enabled_events[0]"),
        ({"urls": "x"}, "urls"),
    ],
)
async def test_a_wrong_parameter_is_refused_by_name(
    client: Client, change: dict[str, str | None], param: str
) -> None:
    form = {name: value for name, value in {**FORM, **change}.items() if value is not None}
    status, answer = await call(client, "POST", ENDPOINTS, form)
    assert (status, answer["error"]["param"]) == (400, param)


async def test_events_are_delivered_signed(
    simulator: StripeSimulator, receiver: WebhookReceiver
) -> None:
    register(simulator, receiver, "customer.created", "customer.deleted")
    customer = simulator.create("customers")
    simulator.update("customers", customer["id"], {"balance": 1_000_000})
    simulator.delete("customers", customer["id"])
    simulator.create("coupons")
    await simulator.deliveries.settled()
    assert sorted(event["type"] for event in receiver.events) == [
        "customer.created",
        "customer.deleted",
    ]
    assert {event["data"]["object"]["id"] for event in receiver.events} == {customer["id"]}


async def test_an_endpoint_gets_its_own_api_version(
    simulator: StripeSimulator, client: Client, receiver: WebhookReceiver
) -> None:
    form = {"url": receiver.url, "enabled_events[]": "*", "api_version": "2016-07-06"}
    receiver.secret = (await call(client, "POST", ENDPOINTS, form))[1]["secret"]
    await call(client, "POST", "/v1/coupons")
    await simulator.deliveries.settled()
    [event] = receiver.events
    assert (event["api_version"], event["request"][:4]) == ("2016-07-06", "req_")


async def test_what_is_not_acknowledged_is_sent_again(
    simulator: StripeSimulator, receiver: WebhookReceiver
) -> None:
    register(simulator, receiver)
    receiver.answers = [500, 302, 400]
    simulator.create("coupons")
    await simulator.deliveries.settled()
    assert receiver.statuses == [500, 302, 400, 200]
    assert [attempt.status for attempt in simulator.deliveries.attempts] == [500, 302, 400, 200]


async def test_an_event_that_is_given_up_is_sent_no_more(
    simulator: StripeSimulator, receiver: WebhookReceiver
) -> None:
    register(simulator, receiver)
    receiver.answers = [500]
    simulator.create("coupons")
    await simulator.deliveries.attempted()
    [attempt] = simulator.deliveries.attempts
    simulator.deliveries.give_up(attempt.event_id)
    await simulator.deliveries.settled()
    simulator.create("coupons")
    await simulator.deliveries.settled()
    assert receiver.statuses == [500, 200]
    assert attempt.event_id not in receiver.ids()


async def test_an_endpoint_that_is_away_gets_all_once_it_is_back(
    simulator: StripeSimulator,
) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        simulator.register_webhook(f"http://127.0.0.1:{reserved.getsockname()[1]}/")
        simulator.create("coupons")
        await simulator.deliveries.attempted()
        assert simulator.deliveries.attempts[0].status == 0
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await simulator.deliveries.settled()
        async with LoopbackServer(answer_ok, sock=reserved.dup()):
            await simulator.deliveries.settled()
    assert simulator.deliveries.attempts[-1].status == 200


async def answer_ok(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    await writer.drain()


async def test_deliveries_come_twice_and_out_of_order_when_asked_to(
    simulator: StripeSimulator, receiver: WebhookReceiver
) -> None:
    register(simulator, receiver)
    simulator.deliveries.disturb(duplicates=0.5, reorder=0.1, seed=3)
    made: list[str] = []
    simulator.on_event(lambda event: made.append(event.id))
    for _ in range(40):
        simulator.create("coupons")
    await simulator.deliveries.settled()
    counts = Counter(receiver.ids())
    assert set(counts) == set(made)
    assert set(counts.values()) == {1, 2}
    assert list(dict.fromkeys(receiver.ids())) != made


async def test_a_disabled_endpoint_and_a_deleted_one_get_nothing(
    simulator: StripeSimulator, client: Client, receiver: WebhookReceiver
) -> None:
    endpoint_id = register(simulator, receiver)
    await call(client, "POST", f"{ENDPOINTS}/{endpoint_id}", {"disabled": "true"})
    simulator.create("coupons")
    await call(client, "POST", f"{ENDPOINTS}/{endpoint_id}", {"disabled": "false"})
    # Deliveries that wait for a retry are dropped, too.
    receiver.answers = [500] * 100
    simulator.create("products")
    await simulator.deliveries.attempted()
    await call(client, "DELETE", f"{ENDPOINTS}/{endpoint_id}")
    await simulator.deliveries.settled()
    simulator.create("customers")
    await simulator.deliveries.settled()
    assert receiver.events == []


async def test_nothing_leaves_the_machine(simulator: StripeSimulator) -> None:
    simulator.register_webhook("https://example.com/hook")
    simulator.register_webhook("http://192.0.2.1/hook")
    simulator.create("coupons")
    await simulator.deliveries.settled()
    assert simulator.deliveries.attempts == []


async def test_a_connect_endpoint_gets_the_events_of_connected_accounts(
    simulator: StripeSimulator, receiver: WebhookReceiver
) -> None:
    register(simulator, receiver, connect=True)
    simulator.connect("acct_2")
    simulator.create("coupons")
    simulator.create("customers", account="acct_2")
    await simulator.deliveries.settled()
    assert [(event["type"], event["account"]) for event in receiver.events] == [
        ("customer.created", "acct_2")
    ]


async def test_thin_events_go_to_whoever_asked_for_thin_ones(
    simulator: StripeSimulator, client: Client, receiver: WebhookReceiver
) -> None:
    simulator.register_webhook(receiver.url)
    receiver.secret = simulator.register_thin_webhook(receiver.url)
    created = "2026-01-02T03:04:05.000Z"
    event = {"id": "evt_thin", "object": "v2.core.event", "type": "v2.x", "created": created}
    simulator.publish(event)
    await simulator.deliveries.settled()
    assert receiver.events == [event]
    assert (await call(client, "GET", "/v1/events"))[1]["data"] == []
    assert (await call(client, "GET", "/v2/core/events"))[1]["data"] == [event]
    assert await call(client, "GET", "/v2/core/events/evt_thin") == (200, event)
