import asyncio
import gzip
import json
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import structlog
from aiohttp import web

from engine_server.connectors.stripe.api.errors import FailureScope, RequestFailed
from engine_server.connectors.stripe.api.retry import RetryPolicy
from engine_server.connectors.stripe.api.stripe_api import StripeApi
from engine_server.connectors.stripe.catalog.streams import load_resources
from engine_server.connectors.stripe.lists.pages import fetch_page
from engine_server.connectors.stripe.lists.ranges import Range
from engine_server.errors import ConnectionFailed
from tests.engine_server.connectors.stripe import virtual_time
from tests.engine_server.connectors.stripe.reading import QUICK, config_for
from tests.loop_blocks import MOST_SECONDS, watched
from tests.loopback_server import LoopbackServer
from tests.stripe_simulator import errors, faults
from tests.stripe_simulator.seeds.plan import SeedPlan
from tests.stripe_simulator.simulator import StripeSimulator

PATH = "/v1/customers"


@pytest.fixture
async def simulator() -> AsyncIterator[StripeSimulator]:
    async with StripeSimulator(SeedPlan(counts={"customers": 100})) as simulator:
        yield simulator


@pytest.fixture
def logs() -> Iterator[list[Any]]:
    with structlog.testing.capture_logs() as captured:
        yield captured


class Connections:
    """Records the client ports of requests: one for each connection."""

    def __init__(self) -> None:
        self.ports: list[int] = []

    async def __call__(self, request: web.Request, serve: faults.Serve) -> web.StreamResponse:
        assert request.transport is not None
        self.ports.append(request.transport.get_extra_info("peername")[1])
        return await serve(request)


@pytest.mark.parametrize("max_concurrency", [1, 6])
async def test_connections_are_kept_and_no_more_than_allowed(
    simulator: StripeSimulator, max_concurrency: int
) -> None:
    connections = Connections()
    simulator.faults.add(connections, times=None)
    config = config_for(simulator, max_concurrency=max_concurrency)
    async with StripeApi(QUICK).client(config) as client:
        await asyncio.gather(*(client.get(PATH, {}) for _ in range(60)))
        for _ in range(20):
            await client.get(PATH, {})
    assert len(connections.ports) == 80
    assert len(set(connections.ports)) <= max_concurrency


async def test_a_refusal_does_not_cost_a_connection(simulator: StripeSimulator) -> None:
    connections = Connections()
    simulator.faults.add(connections, times=None)
    simulator.faults.add(faults.refuse(errors.rate_limited("global-rate")), times=5)
    async with StripeApi(QUICK).client(config_for(simulator)) as client:
        await client.get(PATH, {})
    assert len(connections.ports) == 6
    assert len(set(connections.ports)) == 1


@pytest.mark.parametrize(
    ("encoding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)]
)
async def test_compressed_responses_are_requested_and_read(
    simulator: StripeSimulator, encoding: str, compress: Callable[[bytes], bytes]
) -> None:
    async def compressed(request: web.Request, serve: faults.Serve) -> web.StreamResponse:
        assert encoding in request.headers["Accept-Encoding"]
        plain = await serve(request)
        assert isinstance(plain, web.Response)
        assert isinstance(plain.body, bytes)
        body = compress(plain.body)
        assert len(body) < len(plain.body) / 2
        headers = {"Content-Encoding": encoding}
        return web.Response(body=body, headers=headers, content_type="application/json")

    async with StripeApi(QUICK).client(config_for(simulator)) as client:
        plain = await client.get(PATH, {"limit": "100"})
        simulator.faults.add(compressed)
        answer = await client.get(PATH, {"limit": "100"})
    assert len(answer.body["data"]) == 100
    assert answer.body == plain.body
    assert answer.request_id == "req_simulator000002"


async def test_a_truncated_compressed_response_is_retried(
    simulator: StripeSimulator,
) -> None:
    async def cut(request: web.Request, serve: faults.Serve) -> web.StreamResponse:
        plain = await serve(request)
        assert isinstance(plain, web.Response)
        assert isinstance(plain.body, bytes)
        body = gzip.compress(plain.body)[:-100]
        headers = {"Content-Encoding": "gzip"}
        return web.Response(body=body, headers=headers, content_type="application/json")

    simulator.faults.add(cut)
    async with StripeApi(QUICK).client(config_for(simulator)) as client:
        answer = await client.get(PATH, {"limit": "100"})
    assert len(answer.body["data"]) == 100
    assert len(simulator.requests) == 2


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"220 mail.example ESMTP ready\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nno chunk",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\n{}{}",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nContent-Length: 4\r\n\r\n{}{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n\xff\xfe\xff\xfe",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    ],
)
async def test_a_response_that_is_not_from_an_api_is_retried_and_then_reported(
    simulator: StripeSimulator, logs: list[Any], answer: bytes
) -> None:
    asked = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        await reader.readuntil(b"\r\n\r\n")
        asked += 1
        writer.write(answer)
        await writer.drain()

    policy = RetryPolicy(attempts=3, first_delay=0.001)
    async with LoopbackServer(serve) as server:
        base_url = f"http://127.0.0.1:{server.port}"
        async with StripeApi(policy).client(config_for(simulator, base_url=base_url)) as client:
            with pytest.raises((RequestFailed, ConnectionFailed)) as caught:
                await client.get(PATH, {})
    assert asked == 3
    assert len(logs) == 2
    assert base_url in str(caught.value)
    assert simulator.api_key not in f"{caught.value} {logs}"


async def test_a_response_is_known_until_a_second_before_its_request(
    simulator: StripeSimulator,
) -> None:
    async with StripeApi(QUICK).client(config_for(simulator)) as client:
        asked_at = time.time()
        answer = await client.get(PATH, {})
    assert asked_at - 2 < answer.known_until + 1 <= asked_at


def test_a_stalled_request_times_out_after_thirty_seconds_by_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        async with (
            StripeSimulator() as simulator,
            StripeApi(RetryPolicy()).client(config_for(simulator)) as client,
        ):
            released = asyncio.Event()
            simulator.faults.add(faults.stall(released))
            began = time.monotonic()
            await client.get(PATH, {})
            assert 30 <= time.monotonic() - began <= 31.6
            released.set()

    virtual_time.run(monkeypatch, main())


async def stalled_body(request: web.Request, serve: faults.Serve) -> web.StreamResponse:
    """Send half of the body, then nothing until the client disconnects."""
    whole = await serve(request)
    assert isinstance(whole, web.Response)
    assert isinstance(whole.body, bytes)
    half = web.StreamResponse(headers=whole.headers)
    half.content_length = len(whole.body)
    await half.prepare(request)
    await half.write(whole.body[: len(whole.body) // 2])
    await asyncio.Event().wait()
    return half


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (stalled_body, r"did not answer GET /v1/customers: no complete response within 1 second"),
        (faults.truncated_body(), "did not answer GET /v1/customers: ClientPayloadError: "),
        (faults.html(200), "answered 200 to GET /v1/customers: the body is not whole JSON"),
        (faults.html(502), "answered 502 to GET /v1/customers: Bad Gateway"),
        (faults.refuse(errors.server_error(500)), "answered 500 to GET /v1/customers: An unknown"),
    ],
)
async def test_every_failure_names_the_request_in_the_log_and_the_error(
    simulator: StripeSimulator, logs: list[Any], fault: faults.Fault, words: str
) -> None:
    policy = RetryPolicy(attempts=2, first_delay=0.001)
    if fault is stalled_body:
        policy = replace(policy, timeout=1.0)
    async with StripeApi(policy).client(config_for(simulator)) as client:
        await client.get(PATH, {})
        simulator.faults.add(fault, times=None)
        with pytest.raises(RequestFailed, match=f"{words}.*; request_id: req_simulator000003$"):
            await client.get(PATH, {})
    [line] = logs
    assert line["request_id"] == "req_simulator000002"


async def test_a_response_that_is_no_list_is_named_by_its_request(
    simulator: StripeSimulator,
) -> None:
    async def other(_request: web.Request, _serve: faults.Serve) -> web.StreamResponse:
        return web.json_response({"object": "customer"})

    simulator.faults.add(other)
    resource = load_resources()["customers"]
    async with StripeApi(QUICK).client(config_for(simulator)) as client:
        with pytest.raises(RequestFailed, match="whose objects have ids; request_id: req_sim"):
            await fetch_page(client, resource, Range(), 100)


async def test_a_page_with_an_unstorable_cursor_is_no_list(
    simulator: StripeSimulator,
) -> None:
    body = b'{"data":[{"id":"\\ud800","created":1}],"has_more":true}'
    simulator.faults.add(faults.other_body(body))
    resource = load_resources()["customers"]
    async with StripeApi(QUICK).client(config_for(simulator)) as client:
        with pytest.raises(RequestFailed, match="whose objects have ids"):
            await fetch_page(client, resource, Range(), 100)


async def test_a_client_shows_its_key_nowhere(simulator: StripeSimulator, logs: list[Any]) -> None:
    async with StripeApi(QUICK).client(config_for(simulator)) as client:
        simulator.faults.add(faults.connection_reset(), times=2)
        answer = await client.get(PATH, {})
        simulator.faults.add(faults.connection_reset(), times=None)
        with pytest.raises(RequestFailed) as caught:
            await client.get(PATH, {})
    # A chained exception of aiohttp would carry the request's headers.
    assert caught.value.__cause__ is caught.value.__context__ is None
    shown = [repr(client), str(client), repr(answer), repr(logs), repr(caught.value)]
    assert simulator.api_key not in "".join(shown)


async def test_errors_hold_only_storable_characters(
    simulator: StripeSimulator, logs: list[Any]
) -> None:
    async def odd(request: web.Request, serve: faults.Serve) -> web.StreamResponse:
        body = (
            b'{"error":{"message":"no \\ud83d and a\\u0000b","code":"\\udc00","param":"\\u0000"}}'
        )
        return web.Response(status=400, body=body, content_type="application/json")

    simulator.faults.add(odd)
    async with StripeApi(QUICK).client(config_for(simulator)) as client:
        with pytest.raises(RequestFailed) as failed:
            await client.get(PATH, {})
    error = failed.value
    assert error.stripe_message == "no \ufffd and a\ufffdb"
    assert (error.stripe_code, error.param) == ("\ufffd", "\ufffd")
    assert "no \ufffd and a\ufffdb" in str(error)


async def test_undecodable_headers_are_shown_in_storable_characters() -> None:
    shown = b"Request-Id: req_\xff\r\nStripe-Version: \xfe\r\nStripe-Rate-Limited-Reason: \xfd\r\n"

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        status = b"404 \xff" if head.startswith(b"GET /v1/gone") else b"200 OK"
        writer.write(b"HTTP/1.1 " + status + b"\r\n" + shown + b"Content-Length: 2\r\n\r\n{}")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server, StripeSimulator() as simulator:
        base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with StripeApi(QUICK).client(config_for(simulator, base_url=base_url)) as client:
            answered = await client.get(PATH, {})
            with pytest.raises(RequestFailed) as failed:
                await client.get("/v1/gone", {})
    assert (answered.request_id, answered.stripe_version) == ("req_\ufffd", "\ufffd")
    assert "request_id: req_\ufffd; rate_limit_reason: \ufffd" in failed.value.message


@pytest.mark.parametrize("bad", [b'{"data":[{"id":"\xff"}],"has_more":false}', b'{"id":"a\x00b"}'])
async def test_a_response_with_invalid_bytes_is_retried(
    simulator: StripeSimulator, logs: list[Any], bad: bytes
) -> None:
    """A proxy may damage Stripe's response; Stripe sends UTF-8, and escapes control characters."""

    async def broken(request: web.Request, serve: faults.Serve) -> web.StreamResponse:
        return web.Response(body=bad, content_type="application/json")

    simulator.faults.add(broken)
    async with StripeApi(QUICK).client(config_for(simulator)) as client:
        page = await fetch_page(client, load_resources()["customers"], Range(), 100)
    assert len(page.objects) == 100
    [retried] = [line for line in logs if line["event"] == "stripe_request_retried"]
    assert retried["error"].startswith("the body is not whole JSON")


def compressed(body: bytes, status: int = 200) -> faults.Fault:
    sent = gzip.compress(body, 1)

    async def fault(_request: web.Request, _serve: faults.Serve) -> web.StreamResponse:
        headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
        return web.Response(status=status, body=sent, headers=headers)

    return fault


async def test_an_endless_response_is_not_read_to_its_end(simulator: StripeSimulator) -> None:
    simulator.faults.add(compressed(b'{"data": "' + b" " * 200 * 1024**2), path=PATH)
    async with StripeApi(QUICK).client(config_for(simulator)) as client, watched() as blocks:
        with pytest.raises(RequestFailed, match="is larger than 64 MiB") as caught:
            await client.get(PATH, {})
        await client.get("/v1/products", {})
    assert caught.value.scope is FailureScope.OBJECT
    assert blocks.longest < MOST_SECONDS


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (b"-0,", "it has more than 100,000 values"),
        (b"1.0,", "it has more than 100,000 values"),
        (b"[],", "it has more than 100,000 values"),
        (b'{"\\ud800":{}},', "it has more than 100,000 values"),
        (b"9" * 4000 + b",", "it has more than 4 MiB, with lone surrogates, -0 or long integers"),
    ],
    ids=["-0", "fractions", "lists", "surrogates", "long integers"],
)
async def test_an_object_with_too_many_values_fails_alone_and_at_once(
    simulator: StripeSimulator, value: bytes, why: str
) -> None:
    body = b'{"id":"cus_1","of":[' + value * (12 * 1024**2 // len(value)) + b"1]}"
    simulator.faults.add(compressed(body), path=PATH, times=None)
    async with StripeApi(QUICK).client(config_for(simulator)) as client, watched() as blocks:
        with pytest.raises(RequestFailed, match=f"too large to be decoded: {why}") as caught:
            await client.get(PATH, {})
        await client.get("/v1/products", {})
    assert caught.value.scope is FailureScope.OBJECT
    assert len([request for request in simulator.requests if request.path == PATH]) == 1
    assert blocks.longest < MOST_SECONDS


@pytest.mark.parametrize("value", [b"{},", b'{"id":[]},'])
async def test_a_page_with_too_many_objects_fails_alone_and_at_once(
    simulator: StripeSimulator, value: bytes
) -> None:
    body = b'{"object":"list","has_more":false,"data":[' + value * 5_000_000 + b"{}]}"
    simulator.faults.add(compressed(body), path=PATH, times=None)
    async with StripeApi(QUICK).client(config_for(simulator)) as client, watched() as blocks:
        with pytest.raises(RequestFailed, match="it has more than 1,000,000 values") as caught:
            await fetch_page(client, load_resources()["customers"], Range(), 100)
        await client.get("/v1/products", {})
    assert caught.value.scope is FailureScope.OBJECT
    assert blocks.longest < MOST_SECONDS


async def test_a_large_page_is_decoded_while_other_tasks_run(simulator: StripeSimulator) -> None:
    objects = [{"id": f"cus_{n}", "of": ["a" * 50, -1.5] * 4_000} for n in range(100)]
    body = json.dumps({"object": "list", "has_more": False, "data": objects}, indent=2)
    simulator.faults.add(compressed(body.encode()), path=PATH)
    async with StripeApi(QUICK).client(config_for(simulator)) as client, watched() as blocks:
        page = await fetch_page(client, load_resources()["customers"], Range(), 100)
    assert [json.loads(bytes(found.text)) for found in page.objects] == objects
    assert blocks.longest < MOST_SECONDS


async def test_the_first_part_of_a_long_refusal_is_read(simulator: StripeSimulator) -> None:
    simulator.faults.add(compressed(b'{"error": "' + b" " * 100 * 1024**2, 400), path=PATH)
    async with StripeApi(QUICK).client(config_for(simulator)) as client, watched() as blocks:
        with pytest.raises(RequestFailed, match="answered 400"):
            await client.get(PATH, {})
    assert blocks.longest < MOST_SECONDS


async def test_a_long_message_of_a_refusal_is_cut_and_shows_no_part_of_the_key(
    simulator: StripeSimulator, logs: list[Any]
) -> None:
    config = config_for(simulator)
    message = (1_995 * "x" + config.api_key.get_secret_value()).ljust(200_000, "x")

    async def refuse(_request: web.Request, _serve: faults.Serve) -> web.StreamResponse:
        error = {"type": "api_error", "message": message}
        return web.json_response({"error": error}, status=409)

    simulator.faults.add(refuse, times=None)
    async with StripeApi(RetryPolicy(attempts=2, first_delay=0.001)).client(config) as client:
        with pytest.raises(RequestFailed, match=r"GET /v1/customers: x{1995}") as caught:
            await client.get(PATH, {})
    [line] = logs
    for text in (line["error"], str(caught.value)):
        assert len(text) < 2_200
        assert "sk_" not in text
