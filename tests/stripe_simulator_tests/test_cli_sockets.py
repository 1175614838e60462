"""Sessions and WebSockets of the Stripe CLI."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
import stripe

from tests.stripe_simulator.cli_sessions import SESSIONS_PATH
from tests.stripe_simulator.cli_sockets import SUBPROTOCOL
from tests.stripe_simulator.simulator import StripeSimulator

Client = aiohttp.ClientSession
Socket = aiohttp.ClientWebSocketResponse
Session = dict[str, Any]
FORM = {"device_name": "a machine", "websocket_features[]": "webhooks"}

THIN = {
    "id": "evt_thin",
    "object": "v2.core.event",
    "type": "v2.core.account.updated",
    "created": "2026-01-02T03:04:05.000Z",
    "related_object": {
        "id": "acct_1",
        "type": "v2.core.account",
        "url": "/v2/core/accounts/acct_1",
    },
}


@pytest.fixture
async def session(client: Client) -> Session:
    async with client.post(SESSIONS_PATH, data=FORM) as response:
        assert response.status == 200
        session: Session = await response.json()
        return session


@asynccontextmanager
async def connected(client: Client, session: Session) -> AsyncIterator[Socket]:
    url = f"{session['websocket_url']}?websocket_feature={session['websocket_authorized_feature']}"
    headers = {"Websocket-Id": session["websocket_id"], "Accept-Encoding": "identity"}
    async with client.ws_connect(url, headers=headers, protocols=[SUBPROTOCOL]) as socket:
        assert socket.protocol == SUBPROTOCOL
        yield socket


async def frame(socket: Socket) -> dict[str, Any]:
    received: dict[str, Any] = await socket.receive_json(timeout=5)
    assert received["type"] == "webhook_event"
    return received


def event_of(received: dict[str, Any]) -> dict[str, Any]:
    event: dict[str, Any] = json.loads(received["event_payload"])
    return event


async def acknowledge(socket: Socket, received: dict[str, Any]) -> None:
    await socket.send_json(
        {
            "type": "event_ack",
            "event_id": event_of(received)["id"],
            "webhook_conversation_id": received["webhook_conversation_id"],
        }
    )


async def refusal(client: Client, session: Session, **changes: str) -> tuple[int, str]:
    """Return status and message of the answer to a refused connection."""
    details = {"feature": session["websocket_authorized_feature"], "protocol": SUBPROTOCOL}
    details |= {"id": session["websocket_id"]} | changes
    headers = {
        "Websocket-Id": details["id"],
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "MDEyMzQ1Njc4OTAxMjM0NQ==",
        "Sec-WebSocket-Protocol": details["protocol"],
    }
    url = session["websocket_url"].replace("ws://", "http://")
    params = {"websocket_feature": details["feature"]}
    async with client.get(url, params=params, headers=headers) as response:
        return response.status, (await response.json())["error"]["message"]


async def test_an_event_that_is_given_up_is_sent_no_more(
    simulator: StripeSimulator, client: Client, session: Session
) -> None:
    simulator.create("coupons")
    [listed] = (event for event in simulator.objects("events").documents())
    simulator.cli_sessions.give_up(listed["id"])
    await simulator.cli_sessions.settled()
    another = simulator.create("coupons")
    async with connected(client, session) as socket:
        received = await frame(socket)
        assert event_of(received)["data"]["object"]["id"] == another["id"]


async def test_events_come_signed_and_are_acknowledged(
    simulator: StripeSimulator, client: Client, session: Session
) -> None:
    assert session["reconnect_delay"] == 60
    async with connected(client, session) as socket:
        customer = simulator.create("customers")
        simulator.delete("customers", customer["id"])
        for expected in ("customer.created", "customer.deleted"):
            received = await frame(socket)
            event = stripe.Webhook.construct_event(
                received["event_payload"],
                received["http_headers"]["Stripe-Signature"],
                session["secret"],
            )
            assert (event.type, event.data.object["id"]) == (expected, customer["id"])
            assert received["webhook_id"]
            assert received["endpoint"]["api_version"] == event.api_version
            await acknowledge(socket, received)
        await simulator.cli_sessions.settled()
    [made] = simulator.cli_sessions.made
    assert len(made.acknowledged) == 2


async def test_an_event_comes_as_the_accounts_own_version_has_it_and_as_the_latest_one(
    simulator: StripeSimulator, client: Client, session: Session
) -> None:
    simulator.cli_sessions.own_version = "2019-03-14"
    async with connected(client, session) as socket:
        simulator.create("coupons")
        own, latest = await frame(socket), await frame(socket)
        assert own["endpoint"]["api_version"] is None
        assert latest["endpoint"]["api_version"] == event_of(latest)["api_version"]
        assert event_of(own) == {**event_of(latest), "api_version": "2019-03-14"}
        for received in (own, latest):
            await acknowledge(socket, received)
        await simulator.cli_sessions.settled()


async def test_what_was_not_acknowledged_comes_again_with_the_next_connection(
    simulator: StripeSimulator, client: Client, session: Session
) -> None:
    async with connected(client, session) as socket:
        for _ in range(3):
            simulator.create("coupons")
        received = [await frame(socket) for _ in range(3)]
        await acknowledge(socket, received[1])
        await simulator.cli_sessions.made[0].heard()
        simulator.cli_sockets.drop()
        assert (await socket.receive(timeout=5)).type in (
            aiohttp.WSMsgType.CLOSED,
            aiohttp.WSMsgType.ERROR,
        )
    simulator.create("products")
    async with connected(client, session) as socket:
        again = [await frame(socket) for _ in range(3)]
        ids = [event_of(one)["id"] for one in again]
        assert ids[:2] == [event_of(received[0])["id"], event_of(received[2])["id"]]
        assert event_of(again[2])["type"] == "product.created"
        for one in again:
            await acknowledge(socket, one)
        await simulator.cli_sessions.settled()


async def test_an_acknowledgement_of_another_event_counts_for_nothing(
    simulator: StripeSimulator, client: Client, session: Session
) -> None:
    async with connected(client, session) as socket:
        simulator.create("coupons")
        received = await frame(socket)
        wrong = {"event_id": "evt_other", "webhook_conversation_id": "wc_other"}
        for change in wrong.items():
            right = {
                "type": "event_ack",
                "event_id": event_of(received)["id"],
                "webhook_conversation_id": received["webhook_conversation_id"],
            }
            await socket.send_json(right | dict([change]))
        await socket.send_json({"type": "webhook_response", "status": 200})
        await simulator.cli_sessions.made[0].heard(3)
        assert len(simulator.cli_sessions.made[0].responses) == 1
        assert simulator.cli_sessions.made[0].acknowledged == []
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await simulator.cli_sessions.settled()


async def test_a_session_that_has_expired_is_unknown(
    simulator: StripeSimulator, client: Client, session: Session
) -> None:
    async with connected(client, session) as socket:
        await simulator.cli_sockets.connected()
        simulator.cli_sockets.expire()
        await socket.receive(timeout=5)
        await simulator.cli_sockets.connected(0)
    assert await refusal(client, session) == (400, "Unknown WebSocket ID.")
    with pytest.raises(aiohttp.WSServerHandshakeError, match="400"):
        async with connected(client, session):
            pass


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": "cliws_other"}, "Unknown WebSocket ID."),
        # The requested feature differs from the authorized one.
        ({"feature": "webhooks"}, "The WebSocket feature is not authorized."),
        ({"protocol": "chat"}, "Unknown WebSocket subprotocol."),
    ],
)
async def test_a_wrong_connection_is_refused_with_the_reason(
    client: Client, session: Session, change: dict[str, str], message: str
) -> None:
    assert await refusal(client, session, **change) == (400, message)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"device_name": None}, "device_name"),
        ({"websocket_features[]": "request_logs"}, "websocket_features"),
    ],
)
async def test_a_wrong_session_is_refused_by_name(
    client: Client, change: dict[str, str | None], param: str
) -> None:
    form = {name: value for name, value in {**FORM, **change}.items() if value is not None}
    async with client.post(SESSIONS_PATH, data=form) as response:
        assert (response.status, (await response.json())["error"]["param"]) == (400, param)


async def test_a_session_hears_of_connected_accounts_too(
    simulator: StripeSimulator, client: Client, session: Session
) -> None:
    simulator.connect("acct_2")
    async with connected(client, session) as socket:
        simulator.create("coupons", account="acct_2")
        assert event_of(await frame(socket))["account"] == "acct_2"


async def test_a_session_has_one_connection(
    simulator: StripeSimulator, client: Client, session: Session
) -> None:
    async with connected(client, session) as first, connected(client, session) as second:
        assert (await first.receive(timeout=5)).type is not aiohttp.WSMsgType.TEXT
        simulator.create("coupons")
        assert event_of(await frame(second))["type"] == "coupon.created"


async def test_a_thin_event_names_its_object(
    simulator: StripeSimulator, client: Client, session: Session
) -> None:
    async with connected(client, session) as socket:
        simulator.publish(THIN)
        received = await socket.receive_json(timeout=5)
        assert (received["type"], json.loads(received["payload"])) == ("v2_event", THIN)
        assert received["destination_id"]
        assert received["http_headers"]["Stripe-Signature"]
        # A thin event has no conversation.
        acknowledgement = {"event_id": THIN["id"], "webhook_conversation_id": ""}
        await socket.send_json({"type": "event_ack", **acknowledgement})
        await simulator.cli_sessions.settled()


async def test_a_silent_connection_answers_no_ping_and_loses_no_event(
    simulator: StripeSimulator, client: Client, session: Session
) -> None:
    async with connected(client, session) as socket:
        await socket.ping()
        simulator.create("coupons")
        await acknowledge(socket, await frame(socket))
        await simulator.cli_sessions.settled()
        simulator.cli_sockets.silence()
        simulator.create("products")
        with pytest.raises(TimeoutError):
            await socket.receive(timeout=0.02)
        async with connected(client, session) as other:
            assert event_of(await frame(other))["type"] == "product.created"


async def test_messages_of_other_kinds_can_be_sent(
    simulator: StripeSimulator, client: Client, session: Session
) -> None:
    async with connected(client, session) as socket:
        await simulator.cli_sockets.connected()
        await simulator.cli_sockets.say({"type": "request_log_event"})
        assert await socket.receive_json(timeout=5) == {"type": "request_log_event"}
