"""Tests that hostile HTTP requests are answered without server errors."""

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest

from pipesync_client import PipelineClient
from service_server.bootstrap import RunningService, running_service
from service_server.settings.service import ServiceSettings
from tests.service_server.webhooks.deliveries import create, event, headers, hooked

BODY = event("evt_hostile")


@pytest.fixture
async def service(settings: ServiceSettings) -> AsyncIterator[RunningService]:
    async with running_service(settings) as running, PipelineClient(running.address) as client:
        await create(client, hooked())
        yield running


async def status(service: RunningService, head: bytes, body: bytes = b"") -> int:
    """Send a request with this head and body, and return the status of the response."""
    url = urlsplit(service.http_address)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    try:
        writer.write(
            head
            + b"\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
            + body
        )
        await writer.drain()
        answered = await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()
    return int(answered.split(b" ", 2)[1])


def post(path: bytes = b"hooked", *more: bytes, signature: bytes | None = None) -> bytes:
    """Return the head of a delivery, by default with the current signature of ``BODY``."""
    shown = headers(BODY)["stripe-signature"].encode() if signature is None else signature
    return b"\r\n".join(
        [b"POST /webhooks/%b HTTP/1.1" % path, b"Stripe-Signature: " + shown, *more]
    )


async def test_a_valid_delivery_is_accepted(service: RunningService) -> None:
    assert await status(service, post(), BODY) == 200


@pytest.mark.parametrize(
    "signature",
    [
        b"",
        b"\xc3\xbc",
        b"\xff\xfe",
        b"t=TIME,v1=MAC\xff",
        "t=TIME,v1=üMAC".encode(),
        b"t=TIME,v1=\xffMAC",
        b"t=\xff,v1=0",
        b"t=,v1=",
        b"t=-1,v1=0",
        b"t=1e9,v1=0",
        b"t=" + b"9" * 5000 + b",v1=0",
        b"t=NaN,v1=0",
        b"t=1" + b",v1=0" * 1000,
        b"," * 4000,
        b"=" * 4000,
        b"t=\x7f1,v1=0",
    ],
    ids=range(16),
)
async def test_a_hostile_signature_is_refused(service: RunningService, signature: bytes) -> None:
    # The parts of a valid signature are valid only for a while.
    right = dict(part.split("=") for part in headers(BODY)["stripe-signature"].split(","))
    for name, placeholder in (("t", b"TIME"), ("v1", b"MAC")):
        signature = signature.replace(placeholder, right[name].encode())
    assert await status(service, post(signature=signature), BODY) in (400, 401)


@pytest.mark.parametrize(
    "path",
    [b"%00", b"%ff", b"%ed%a0%80", b"%0d%0a", b"..%2f..", b"x" * 5000, b"%F0%9F%98%80", b"%"],
    ids=range(8),
)
async def test_a_hostile_id_is_not_found(service: RunningService, path: bytes) -> None:
    assert await status(service, post(path), BODY) in (400, 404)


@pytest.mark.parametrize(
    "line",
    [
        b"X-Request-Id: \xff\xfe",
        b"X-Request-Id: " + b"x" * 5000,
        b"X-Pipeline-Id: a\x7fb",
        b"traceparent: \xc3\xbc",
        b"Content-Type: \xff",
        b"Content-Encoding: gzip",
        b"Transfer-Encoding: chunked",
        b"Expect: 100-continue",
        b"Expect: \xff",
        b"Upgrade: websocket",
        b"Cookie: " + b"=;" * 3000,
    ],
    ids=range(11),
)
async def test_a_hostile_header_causes_no_server_error(
    service: RunningService, line: bytes
) -> None:
    for head in (
        post(b"hooked", line),
        b"GET /healthz HTTP/1.1\r\n" + line,
        b"GET /metrics HTTP/1.1\r\n" + line,
    ):
        assert await status(service, head) < 500


@pytest.mark.parametrize(
    "body",
    [
        b"\xff",
        b"null",
        b"[" * 100_000,
        b'{"id": ' + b"9" * 5000 + b"}",
        b'{"id": "evt_1", "type": "t", "created": 1e400}',
        b'{"id": "evt_1", "type": "t", "created": ' + b"9" * 4000 + b"}",
        b'{"id": "evt_1", "type": "t", "created": "0001-01-01T00:00:00+23:59"}',
        b'{"id": "\\ud800", "type": "t", "created": 1}',
        b'{"id": "evt_\\u0000", "type": "t", "created": 1}',
    ],
    ids=range(9),
)
async def test_a_hostile_body_is_refused(service: RunningService, body: bytes) -> None:
    # The simulator signs text alone.
    signature = headers(body)["stripe-signature"].encode() if body != b"\xff" else None
    assert await status(service, post(signature=signature), body) in (400, 401)
