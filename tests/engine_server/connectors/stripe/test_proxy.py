import asyncio
import base64
import datetime
import ipaddress
import os
import ssl
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from engine_server.connectors.stripe.api.proxy import proxy_for
from engine_server.connectors.stripe.api.stripe_api import StripeApi
from engine_server.errors import ConnectionFailed
from tests.engine_server.connectors.stripe.reading import QUICK, config_for
from tests.loopback_proxy import LoopbackProxy
from tests.stripe_simulator.seeds.plan import SeedPlan
from tests.stripe_simulator.simulator import StripeSimulator

PATH = "/v1/customers"
STRIPE = "https://api.stripe.com"


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
async def simulator() -> AsyncIterator[StripeSimulator]:
    async with StripeSimulator(SeedPlan(counts={"customers": 3})) as simulator:
        yield simulator


@pytest.fixture
async def proxy() -> AsyncIterator[LoopbackProxy]:
    async with LoopbackProxy() as proxy:
        yield proxy


@pytest.fixture
def logs() -> Iterator[list[Any]]:
    with structlog.testing.capture_logs() as captured:
        yield captured


async def get(simulator: StripeSimulator, **config: Any) -> int:
    async with StripeApi(QUICK).client(config_for(simulator, **config)) as client:
        answer = await client.get(PATH, {})
    return len(answer.body["data"])


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy"])
@pytest.mark.parametrize("value", ["http://proxy.example:3128", "proxy.example:3128"])
def test_the_environment_names_the_proxy(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    monkeypatch.setenv("HTTP_PROXY", "http://other.example:1")
    proxy = proxy_for(STRIPE)
    assert proxy is not None
    assert str(proxy) == "the proxy http://proxy.example:3128 (from HTTPS_PROXY)"
    assert proxy.headers == {}


def test_credentials_are_removed_from_the_address_and_never_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://me:s%C3%A9cret%40@proxy.example:3128/")
    proxy = proxy_for(STRIPE)
    assert proxy is not None
    credentials = base64.b64encode("me:sécret@".encode()).decode()
    assert proxy.headers == {"Proxy-Authorization": f"Basic {credentials}"}
    shown = f"{proxy} {proxy!r} {proxy.url}"
    assert "cret" not in shown
    assert credentials not in shown


@pytest.mark.parametrize(
    ("no_proxy", "base_url", "is_used"),
    [
        ("stripe.com", STRIPE, False),
        (".stripe.com", STRIPE, False),
        ("*", STRIPE, False),
        ("127.0.0.1,api.stripe.com", STRIPE, False),
        ("api.stripe.com:443", STRIPE, True),
        ("notstripe.com,example.com", STRIPE, True),
        ("127.0.0.1", "https://127.0.0.1:8443", False),
        ("127.0.0.1:8443", "https://127.0.0.1:8443", False),
        ("127.0.0.1:8444", "https://127.0.0.1:8443", True),
    ],
)
def test_no_proxy_names_the_hosts_for_direct_requests(
    monkeypatch: pytest.MonkeyPatch, no_proxy: str, base_url: str, is_used: bool
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    assert (proxy_for(base_url) is not None) is is_used


@pytest.mark.parametrize(
    "value",
    [
        "socks5://me:secret@proxy.example:1080",
        "https://proxy.example",
        "http://m%3Ae:secret@proxy.example",
        "http://",
        "http://x:y:z",
    ],
)
async def test_a_proxy_that_cannot_be_used_is_refused_by_the_name_of_its_variable(
    monkeypatch: pytest.MonkeyPatch, simulator: StripeSimulator, value: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", value)
    with pytest.raises(ConnectionFailed, match="HTTPS_PROXY must be the address of an") as caught:
        await get(simulator, base_url=STRIPE)
    assert "secret" not in str(caught.value)


async def test_requests_use_kept_connections_through_the_proxy(
    monkeypatch: pytest.MonkeyPatch, simulator: StripeSimulator, proxy: LoopbackProxy
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
    async with StripeApi(QUICK).client(config_for(simulator)) as client:
        for _ in range(3):
            await client.get(PATH, {})
    assert len(simulator.requests) == 3
    [head] = proxy.heads
    assert head.startswith(f"GET {simulator.base_url}{PATH} HTTP/1.1")


async def test_requests_to_no_proxy_hosts_bypass_the_proxy(
    monkeypatch: pytest.MonkeyPatch, simulator: StripeSimulator, proxy: LoopbackProxy
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
    monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1")
    assert await get(simulator) == 3
    assert proxy.heads == []


async def test_the_proxy_gets_its_password(
    monkeypatch: pytest.MonkeyPatch, simulator: StripeSimulator
) -> None:
    async with LoopbackProxy(credentials="me:secret") as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://me:secret@127.0.0.1:{proxy.port}")
        assert await get(simulator) == 3


async def test_a_password_in_netrc_is_not_sent_in_the_place_of_the_key(
    monkeypatch: pytest.MonkeyPatch, simulator: StripeSimulator, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login me password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    assert await get(simulator) == 3
    [request] = simulator.requests
    assert request.headers["authorization"] == f"Bearer {simulator.api_key}"


async def test_a_proxys_error_page_is_retried(
    monkeypatch: pytest.MonkeyPatch,
    simulator: StripeSimulator,
    proxy: LoopbackProxy,
    logs: list[Any],
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
    proxy.refuse("502 Bad Gateway", times=2)
    assert await get(simulator) == 3
    assert [(line["status"], line["error"]) for line in logs] == [(502, "Bad Gateway")] * 2


@pytest.mark.parametrize("base_url", [None, STRIPE])
async def test_a_proxy_that_is_down_is_named_without_its_password(
    monkeypatch: pytest.MonkeyPatch,
    simulator: StripeSimulator,
    unused_tcp_port: int,
    logs: list[Any],
    base_url: str | None,
) -> None:
    address = f"http://127.0.0.1:{unused_tcp_port}"
    for name in ("HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, address.replace("//", "//me:secret@"))
    with pytest.raises(ConnectionFailed, match=f"cannot connect to the proxy {address}") as caught:
        await get(simulator, base_url=base_url or simulator.base_url)
    assert len(logs) == QUICK.connect_attempts - 1
    shown = f"{caught.value} {logs}"
    assert "secret" not in shown
    assert simulator.api_key not in shown


@pytest.mark.parametrize("base_url", [None, STRIPE])
async def test_a_proxy_that_asks_for_another_password_fails_the_connection_at_once(
    monkeypatch: pytest.MonkeyPatch, simulator: StripeSimulator, base_url: str | None
) -> None:
    async with LoopbackProxy(credentials="me:right") as proxy:
        for name in ("HTTP_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(name, f"http://me:wrong@127.0.0.1:{proxy.port}")
        with pytest.raises(ConnectionFailed) as caught:
            await get(simulator, base_url=base_url or simulator.base_url)
    message = str(caught.value)
    assert f"the proxy http://127.0.0.1:{proxy.port}" in message
    assert message.endswith("answered 407 Proxy Authentication Required")
    assert "wrong" not in message
    assert len(proxy.heads) == 1


async def test_a_failed_tunnel_is_retried_and_never_gets_the_key(
    monkeypatch: pytest.MonkeyPatch, simulator: StripeSimulator, proxy: LoopbackProxy
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
    proxy.refuse("503 Service Unavailable", times=QUICK.connect_attempts)
    with pytest.raises(ConnectionFailed, match="answered 503 Service Unavailable"):
        await get(simulator, base_url=STRIPE)
    assert len(proxy.heads) == QUICK.connect_attempts
    for head in proxy.heads:
        assert head.startswith("CONNECT api.stripe.com:443 HTTP/1.1")
        assert simulator.api_key not in head
        assert "\r\nAuthorization:" not in head


_READ_ONCE = """
import asyncio, sys, uvloop
from engine_server.connectors.stripe.config import StripeConfig
from engine_server.connectors.stripe.api.retry import RetryPolicy
from engine_server.connectors.stripe.api.stripe_api import StripeApi

async def main():
    config = StripeConfig(api_key="sk_test_tunnel", base_url=sys.argv[1])
    async with StripeApi(RetryPolicy(connect_attempts=1)).client(config) as client:
        print((await client.get("/v1/customers", {})).body["data"])

sys.modules[sys.argv[2]].run(main())
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_tls_goes_through_the_proxy_from_end_to_end(
    tmp_path: Path, proxy: LoopbackProxy, loop: str
) -> None:
    proxy.credentials = "me:secret"
    seen = []

    async def answer(request: web.Request) -> web.Response:
        seen.append(request.headers)
        return web.json_response({"object": "list", "data": ["found"], "has_more": False})

    app = web.Application()
    app.router.add_get(PATH, answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    certificate = tmp_path / "certificate.pem"
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=_own_tls(certificate)).start()
    try:
        port = runner.addresses[0][1]
        # The trusted certificates are read when the process starts.
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", _READ_ONCE, f"https://127.0.0.1:{port}", loop),
            env={
                **os.environ,
                "HTTPS_PROXY": f"http://me:secret@127.0.0.1:{proxy.port}",
                "SSL_CERT_FILE": str(certificate),
            },
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        output, problem = await process.communicate()
    finally:
        await runner.cleanup()
    assert output.decode() == "['found']\n", problem.decode()
    [headers] = seen
    assert headers["Authorization"] == "Bearer sk_test_tunnel"
    assert "Proxy-Authorization" not in headers
    [head] = proxy.heads
    assert head.startswith(f"CONNECT 127.0.0.1:{port} HTTP/1.1")
    assert "sk_test_tunnel" not in head


def _own_tls(certificate: Path) -> ssl.SSLContext:
    """Return the TLS context of a server whose certificate, written here, is trusted."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "loopback")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    private = certificate.with_name("key.pem")
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, private)
    return context
