"""Hosts that the Stripe source may connect to, and the parts of their responses that it shows."""

import asyncio
import os
import ssl
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct

from engine_server.connectors.config import parse_config
from engine_server.connectors.reach import REACH, AllowedHosts, Reach
from engine_server.connectors.stripe.api.errors import RequestFailed
from engine_server.connectors.stripe.api.stripe_api import StripeApi
from engine_server.connectors.stripe.config import StripeConfig
from engine_server.connectors.stripe.events.ingress.cli_connection import (
    NotConnected,
    WebSocketClient,
    connect,
)
from engine_server.connectors.stripe.events.ingress.cli_session import CliSession
from engine_server.errors import ConnectionFailed, InvalidRequest
from tests.engine_server.connectors.resolving import Resolver, resolver
from tests.engine_server.connectors.stripe.reading import QUICK
from tests.loopback_proxy import LoopbackProxy
from tests.loopback_server import LoopbackServer
from tests.pipesync_server.certificates import Authority
from tests.stripe_simulator.seeds.plan import SeedPlan
from tests.stripe_simulator.simulator import StripeSimulator

PATH = "/v1/customers"


@pytest.fixture
async def simulator() -> AsyncIterator[StripeSimulator]:
    async with StripeSimulator(SeedPlan(counts={"customers": 3})) as simulator:
        yield simulator


def refusal(reach: Reach, **config: Any) -> str:
    """Return the reason why a base_url is refused; empty if it is accepted."""
    fields = ParseDict({"api_key": "sk_test_1", **config}, Struct())
    try:
        parse_config(StripeConfig, fields, "config", reach=reach)
    except InvalidRequest as error:
        [violation] = error.field_violations
        assert violation.field == "config.base_url"
        return violation.description
    return ""


def config_at(base_url: str, reach: Reach, **fields: Any) -> StripeConfig:
    said = {"api_key": "sk_test_1", "base_url": base_url, **fields}
    return StripeConfig.model_validate(said, context={REACH: reach})


@pytest.mark.parametrize(
    "base_url",
    [
        "https://example.com",
        "https://127.0.0.1:8443",
        "https://api.stripe.com.example.com",
        "https://api.stripe.com%2eexample.com",
        "https://api.stripe.com\\@example.com",
        "https://[::ffff:127.0.0.1]",
        "http://api.stripe.com",
    ],
)
def test_a_confined_engine_connects_only_to_stripe(base_url: str) -> None:
    assert refusal(Reach(is_confined=True), base_url=base_url)


def test_stripe_is_reachable_unless_a_list_omits_it() -> None:
    assert refusal(Reach(is_confined=True)) == ""
    assert refusal(Reach(is_confined=True), base_url="https://API.stripe.com/") == ""
    assert refusal(Reach(allowed=AllowedHosts([".stripe.com"]))) == ""
    assert "not among the hosts" in refusal(Reach(allowed=AllowedHosts(["db.example.com"])))


async def test_the_address_that_was_checked_is_connected_to(simulator: StripeSimulator) -> None:
    leads = Resolver({"stripe.example.com": [["127.0.0.1"], ["192.0.2.1"]]})
    reach = Reach(allowed=AllowedHosts(["stripe.example.com"]), resolve=leads)
    url = simulator.base_url.replace("127.0.0.1", "stripe.example.com")
    config = config_at(url, reach, api_key=simulator.api_key)
    async with StripeApi(QUICK).client(config) as client:
        assert len((await client.get(PATH, {})).body["data"]) == 3
    assert leads.asked == ["stripe.example.com"]


async def test_a_name_that_resolves_to_loopback_fails_at_once(simulator: StripeSimulator) -> None:
    leads = resolver(stripe__example__com=["127.0.0.1"])
    reach = Reach(allowed=AllowedHosts([".example.com"]), resolve=leads)
    url = simulator.base_url.replace("127.0.0.1", "stripe.example.com")
    async with StripeApi(QUICK).client(config_at(url, reach)) as client:
        with pytest.raises(ConnectionFailed, match="leads to the engine's machine"):
            await client.get(PATH, {})
    assert leads.asked == ["stripe.example.com"]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1", "0x7f000001", "[::ffff:127.0.0.1]"])
async def test_a_listed_network_is_reached_by_any_spelling(
    simulator: StripeSimulator, host: str
) -> None:
    reach = Reach(allowed=AllowedHosts(["127.0.0.0/8"]), resolve=resolver())
    url = simulator.base_url.replace("127.0.0.1", host)
    config = config_at(url, reach, api_key=simulator.api_key)
    async with StripeApi(QUICK).client(config) as client:
        assert len((await client.get(PATH, {})).body["data"]) == 3


async def test_behind_a_proxy_only_the_name_is_checked(
    simulator: StripeSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with LoopbackProxy() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        for name in ("NO_PROXY", "no_proxy", "http_proxy"):
            monkeypatch.delenv(name, raising=False)
        url = simulator.base_url.replace("127.0.0.1", "localhost")
        asks_nobody = resolver()
        reach = Reach(allowed=AllowedHosts(["localhost"]), resolve=asks_nobody)
        config = config_at(url, reach, api_key=simulator.api_key)
        async with StripeApi(QUICK).client(config) as client:
            assert (await client.get(PATH, {})).body["data"]
        # Its address would be allowed, but the proxy may find another one.
        listed = Reach(allowed=AllowedHosts(["127.0.0.0/8"]), resolve=asks_nobody)
        with pytest.raises(ConnectionFailed, match="not among the hosts"):
            async with StripeApi(QUICK).client(config_at(url, listed)):
                pass
        assert not asks_nobody.asked
        assert len(proxy.heads) == 1


_READ_ONCE = """
import asyncio, sys
from engine_server.connectors.reach import REACH, AllowedHosts, Reach
from engine_server.connectors.stripe.config import StripeConfig
from engine_server.connectors.stripe.api.retry import RetryPolicy
from engine_server.connectors.stripe.api.stripe_api import StripeApi
from engine_server.errors import ConnectionFailed

async def lead_home(name, port):
    return ["127.0.0.1"]

async def main(port):
    reach = Reach(allowed=AllowedHosts(["api.example.com", "other.example.com"]), resolve=lead_home)
    for host in ("api.example.com", "other.example.com"):
        config = StripeConfig.model_validate(
            {"api_key": "sk_test_1", "base_url": f"https://{host}:{port}"}, context={REACH: reach}
        )
        async with StripeApi(RetryPolicy(connect_attempts=1)).client(config) as client:
            try:
                print((await client.get("/v1/customers", {})).body["data"])
            except ConnectionFailed as error:
                print("certificate is not valid for" in str(error) or str(error))

asyncio.run(main(sys.argv[1]))
"""


async def test_tls_verifies_the_name_though_the_address_is_pinned(tmp_path: Path) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": ["found"], "has_more": False})

    authority = Authority(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("stripe", host="api.example.com"))
    app = web.Application()
    app.router.add_get(PATH, answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    try:
        # The trusted certificates are read when the process starts.
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", _READ_ONCE, str(runner.addresses[0][1])),
            env={**os.environ, "SSL_CERT_FILE": str(authority.certificate), "NO_PROXY": "*"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        output, problem = await process.communicate()
    finally:
        await runner.cleanup()
    assert output.decode() == "['found']\nTrue\n", problem.decode()


HTTP_ANSWER = (
    b"HTTP/1.1 403 The-Reason\r\nRequest-Id: req_The-Id\r\nContent-Length: %d\r\n"
    b"Stripe-Rate-Limited-Reason: The-Limit\r\nConnection: close\r\n\r\n%s"
)
BODY = b'{"error": {"type": "The-Type", "code": "The-Code", "message": "The-Words"}}'


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        (HTTP_ANSWER % (len(BODY), BODY), f"answered 403 to GET {PATH}: {len(BODY)} bytes"),
        (b"SSH-2.0-The-Banner\r\n", "ClientResponseError"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nThe-Words", "not whole JSON"),
    ],
)
async def test_only_status_and_size_of_an_unknown_hosts_response_are_shown(
    answer: bytes, shown: str
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()

    async with LoopbackServer(serve) as server:
        leads = resolver(unknown__example=["127.0.0.1"], known__example=["127.0.0.1"])
        reach = Reach(allowed=AllowedHosts(["127.0.0.0/8", "known.example"]), resolve=leads)
        unknown = config_at(f"http://unknown.example:{server.port}", reach)
        async with StripeApi(QUICK).client(unknown) as client:
            with pytest.raises((RequestFailed, ConnectionFailed)) as caught:
                await client.get(PATH, {})
        assert shown in str(caught.value)
        assert "The-" not in str(caught.value)
        known = config_at(f"http://known.example:{server.port}", reach)
        async with StripeApi(QUICK).client(known) as client:
            with pytest.raises((RequestFailed, ConnectionFailed)) as caught:
                await client.get(PATH, {})
        assert ("The-" in str(caught.value)) == (b"200 OK" not in answer)


def session(url: str) -> CliSession:
    return CliSession(id="w", url=url, feature="webhooks", secret="whsec_1", reconnect_delay=60)


async def test_a_session_cannot_lead_to_a_forbidden_host() -> None:
    leads = resolver(wss__stripe__com=["127.0.0.1"], a__example__com=["169.254.169.254"])
    cases = {
        "wss://127.0.0.1:1/x": Reach(is_confined=True, resolve=leads),
        "wss://example.com/x": Reach(is_confined=True, resolve=leads),
        "wss://wss.stripe.com/x": Reach(is_confined=True, resolve=leads),
        "wss://a.example.com/x": Reach(allowed=AllowedHosts([".example.com"]), resolve=leads),
        "wss://other.example/x": Reach(allowed=AllowedHosts([".example.com"]), resolve=leads),
    }
    for url, reach in cases.items():
        client = WebSocketClient(reach)
        try:
            with pytest.raises(ConnectionFailed, match="--allowed-hosts"):
                await connect(client, session(url), plain=False)
        finally:
            await client.close()
    assert leads.asked == ["wss.stripe.com", "a.example.com"]


async def test_an_unknown_hosts_handshake_message_is_not_shown() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HTTP_ANSWER % (len(BODY), BODY))
        await writer.drain()

    async with LoopbackServer(serve) as server:
        leads = resolver(unknown__example=["127.0.0.1"])
        client = WebSocketClient(Reach(allowed=AllowedHosts(["127.0.0.0/8"]), resolve=leads))
        try:
            with pytest.raises(NotConnected, match="it answered 403") as caught:
                await connect(client, session(f"ws://unknown.example:{server.port}"), plain=True)
        finally:
            await client.close()
    assert "The-" not in str(caught.value)
