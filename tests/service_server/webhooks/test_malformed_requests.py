"""Tests that malformed requests end their connections, and leave nothing in memory."""

import asyncio
import gc
import json
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from aiohttp.http import HttpProcessingError, HttpRequestParser

from service_server.http.parser import MALFORMED, RequestParser
from service_server.store.database import Database
from tests.service_server.webhooks.callers import (
    HEALTH,
    PATIENCE,
    Caller,
    Serve,
    Site,
    head,
    serving,
    until,
)
from tests.service_server.webhooks.conftest import InboxHarness
from tests.service_server.webhooks.deliveries import headers

# Long enough that the server reads the parts of a request one by one.
PAUSE = 0.05
JUNK = b"a" * 100_000
BODY = b"POST /%b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
HEADS = {
    "control characters": (b"\x01\x01", b"\x01\r\n\r\n"),
    "a method": (b"GE", b"Z / HTTP/1.1\r\n\r\n"),
    "a line end": (b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: a", b"\na: b\r\n\r\n"),
    "a missing host": (b"GET /healthz HTTP/1.1\r\n", b"\r\n"),
    "a length": (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1", b"x\r\n\r\n"),
    "a URL": (b"GET htt", b"p://[/ HTTP/1.1\r\nHost: x\r\n\r\n"),
    "HTTP/2": (b"PRI * HTTP", b"/2.0\r\n\r\nSM\r\n\r\n"),
}
BODIES = {
    "a size": b"zz\r\n",
    "a line end": b"1\na\n",
    "the end of a chunk": b"1\r\nab\r\n",
    "a trailer": b"0\r\n\x01: x\r\n\r\n",
    "an extension": b"1;\x01\r\na\r\n",
}


@pytest.fixture
async def serve(harness: InboxHarness, database: Database) -> AsyncIterator[Serve]:
    async with serving(harness, database) as start:
        yield start


async def sent(site: Site, *parts: bytes) -> Caller:
    """Return a caller that has sent the parts, with pauses between them."""
    caller = await site.call()
    with suppress(ConnectionError):
        for part in parts:
            await caller.send(part)
            await asyncio.sleep(PAUSE)
    return caller


async def refusal(caller: Caller) -> dict[str, str]:
    """Return the JSON of an answer of 400, after which the connection ends."""
    async with asyncio.timeout(PATIENCE):
        answered = await caller.reader.readuntil(b"\r\n\r\n")
    first, *lines = answered.decode().lower().splitlines()
    assert first == "http/1.1 400 bad request"
    shown = dict(line.split(": ", 1) for line in lines if line)
    assert shown["connection"] == "close"
    assert shown["content-type"].startswith("application/json")
    assert len(shown["x-request-id"]) > 8
    assert "server" not in shown
    body = await caller.ended()
    assert len(body) == int(shown["content-length"])
    return dict(json.loads(body))


def malformed(site: Site) -> float:
    return site.metric("pipesync_http_malformed_requests_total")


ANSWER = {"error": "the request is malformed", "reason": ""}


@pytest.mark.parametrize("is_split", [False, True])
@pytest.mark.parametrize("kind", HEADS)
async def test_a_malformed_head_is_answered_with_a_fixed_text(
    serve: Serve, kind: str, is_split: bool
) -> None:
    site = await serve()
    start, end = HEADS[kind]
    caller = await sent(site, *((start, end) if is_split else (start + end,)))
    assert await refusal(caller) == ANSWER
    assert malformed(site) == 1


@pytest.mark.parametrize("is_split", [False, True])
@pytest.mark.parametrize("kind", BODIES)
async def test_a_malformed_body_of_a_delivery_is_answered_with_a_fixed_text(
    serve: Serve, kind: str, is_split: bool
) -> None:
    # A trusted proxy, whose connection otherwise stays open.
    site = await serve(proxies=["127.0.0.1"])
    start = head("hooked", headers(b"")["stripe-signature"]).replace(
        b"Content-Length: 0", b"Transfer-Encoding: chunked"
    )
    caller = await sent(site, *((start, BODIES[kind]) if is_split else (start + BODIES[kind],)))
    assert await refusal(caller) == ANSWER
    assert malformed(site) == 1


@pytest.mark.parametrize("path", [b"nowhere", b"webhooks/absent", b"healthz"])
@pytest.mark.parametrize("kind", BODIES)
async def test_a_malformed_body_after_the_answer_ends_the_connection(
    serve: Serve, path: bytes, kind: str
) -> None:
    site = await serve(proxies=["127.0.0.1"])
    caller = await site.call()
    assert await caller.status(BODY % path + b"1\r\na\r\n") in (401, 404, 405)
    await caller.send(BODIES[kind])
    assert await caller.ended() == b""
    assert malformed(site) == 1
    assert site.metric("pipesync_http_connections") == 0


async def test_malformed_data_behind_a_request_is_answered_after_it(serve: Serve) -> None:
    site = await serve()
    caller = await sent(site, HEALTH, b"\x01\r\n")
    assert (await caller.answer())[0] == 200
    assert await refusal(caller) == ANSWER


async def test_many_malformed_bytes_are_not_sent_back(serve: Serve) -> None:
    site = await serve()
    caller = await site.call()
    with suppress(ConnectionError):
        await caller.send(b"\x01" * 250_000)
    assert len(await caller.ended()) < 1000
    assert malformed(site) == 1


@pytest.mark.parametrize("path", [b"nowhere", b"webhooks/hooked"])
@pytest.mark.parametrize(
    "first",
    [b"\x00bad\r\n", BODY, BODY + b"zz\r\n", BODY + b"1\na\n"],
    ids=["head", "split", "size", "line end"],
)
async def test_nothing_keeps_the_errors_of_malformed_data(
    serve: Serve, first: bytes, path: bytes
) -> None:
    site = await serve()
    gc.collect()
    gc.disable()
    try:
        for _ in range(5):
            begun = first % path if first.startswith(b"POST") else first
            caller = await sent(site, begun + JUNK, JUNK)
            await caller.ended()
        await until(lambda: site.metric("pipesync_http_connections") == 0)
        # Without a collection, so that no cycle keeps them either.
        left = [one for one in gc.get_objects() if isinstance(one, HttpProcessingError)]
        parsers = [one for one in gc.get_objects() if type(one) is HttpRequestParser]
    finally:
        gc.enable()
    assert left == []
    # The latest connection may still be in hand.
    assert len(parsers) <= 1
    assert malformed(site) == 5


def test_no_data_is_parsed_after_malformed_data() -> None:
    class Framework:
        fed = 0

        def feed_data(self, _: bytes, /) -> None:
            self.fed += 1
            raise ValueError

        def message_consumed(self) -> None: ...

        def pause_reading(self) -> None: ...

        def set_upgraded(self, _: bool, /) -> None: ...

    framework, errors = Framework(), []
    parser = RequestParser(framework, lambda name, _: errors.append(name))
    messages, _, _ = parser.feed_data(JUNK)
    assert [message for message, _ in messages] == [MALFORMED]
    for _ in range(3):
        assert parser.feed_data(JUNK) == ((), False, b"")
    assert (framework.fed, errors) == (1, ["ValueError"])


@pytest.mark.parametrize("path", ["healthz", "metrics", "absent"])
async def test_no_answer_names_the_framework(serve: Serve, path: str) -> None:
    caller = await (await serve()).call()
    await caller.send(f"GET /{path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    _, shown = await caller.answer()
    assert b"\r\nserver:" not in shown.lower()
