import asyncio
import gzip
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import structlog
from aiohttp import web

from engine_server.connectors.stripe.catalog import load_resources
from engine_server.connectors.stripe.client import StripeClient
from engine_server.connectors.stripe.errors import RequestFailed
from engine_server.connectors.stripe.pages import fetch_page
from engine_server.connectors.stripe.ranges import Range
from engine_server.connectors.stripe.retry import RetryPolicy
from engine_server.errors import ConnectionFailed
from tests.engine_server.connectors.stripe import virtual_time
from tests.engine_server.connectors.stripe.reading import QUICK, config_for
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
    """Notes from which ports requests came: one for each connection."""

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
    async with StripeClient(config, QUICK) as client:
        await asyncio.gather(*(client.get(PATH, {}) for _ in range(60)))
        for _ in range(20):
            await client.get(PATH, {})
    assert len(connections.ports) == 80
    assert len(set(connections.ports)) <= max_concurrency


async def test_a_refusal_does_not_cost_a_connection(simulator: StripeSimulator) -> None:
    connections = Connections()
    simulator.faults.add(connections, times=None)
    simulator.faults.add(faults.refuse(errors.rate_limited("global-rate")), times=5)
    async with StripeClient(config_for(simulator), QUICK) as client:
        await client.get(PATH, {})
    assert len(connections.ports) == 6
    assert len(set(connections.ports)) == 1


@pytest.mark.parametrize(
    ("encoding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)]
)
async def test_compressed_answers_are_asked_for_and_read(
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

    async with StripeClient(config_for(simulator), QUICK) as client:
        plain = await client.get(PATH, {"limit": "100"})
        simulator.faults.add(compressed)
        answer = await client.get(PATH, {"limit": "100"})
    assert len(answer.body["data"]) == 100
    assert answer.body == plain.body
    assert answer.request_id == "req_simulator000002"


async def test_a_compressed_answer_that_is_cut_off_is_asked_for_again(
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
    async with StripeClient(config_for(simulator), QUICK) as client:
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
async def test_what_is_no_answer_of_an_api_is_retried_and_then_told(
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
        async with StripeClient(config_for(simulator, base_url=base_url), policy) as client:
            with pytest.raises((RequestFailed, ConnectionFailed)) as caught:
                await client.get(PATH, {})
    assert asked == 3
    assert len(logs) == 2
    assert base_url in str(caught.value)
    assert simulator.api_key not in f"{caught.value} {logs}"


async def test_an_answer_is_known_until_a_second_that_was_over_when_it_was_asked_for(
    simulator: StripeSimulator,
) -> None:
    async with StripeClient(config_for(simulator), QUICK) as client:
        asked_at = time.time()
        answer = await client.get(PATH, {})
    assert asked_at - 2 < answer.known_until + 1 <= asked_at


def test_by_default_a_request_that_stalls_is_given_up_after_thirty_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        async with (
            StripeSimulator() as simulator,
            StripeClient(config_for(simulator), RetryPolicy()) as client,
        ):
            released = asyncio.Event()
            simulator.faults.add(faults.stall(released))
            began = time.monotonic()
            await client.get(PATH, {})
            assert 30 <= time.monotonic() - began <= 31.6
            released.set()

    virtual_time.run(monkeypatch, main())


async def stalled_body(request: web.Request, serve: faults.Serve) -> web.StreamResponse:
    """Sends half of the body and then nothing until the client is gone."""
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
        (stalled_body, r"did not answer GET /v1/customers: no whole answer within 1 second"),
        (faults.truncated_body(), "did not answer GET /v1/customers: ClientPayloadError: "),
        (faults.html(200), "answered 200 to GET /v1/customers: the body is not whole JSON"),
        (faults.html(502), "answered 502 to GET /v1/customers: Bad Gateway"),
        (faults.refuse(errors.server_error(500)), "answered 500 to GET /v1/customers: An unknown"),
    ],
)
async def test_whatever_goes_wrong_the_request_is_named_in_the_log_and_in_the_error(
    simulator: StripeSimulator, logs: list[Any], fault: faults.Fault, words: str
) -> None:
    policy = RetryPolicy(attempts=2, first_delay=0.001)
    if fault is stalled_body:
        policy = replace(policy, timeout=1.0)
    async with StripeClient(config_for(simulator), policy) as client:
        await client.get(PATH, {})
        simulator.faults.add(fault, times=None)
        with pytest.raises(RequestFailed, match=f"{words}.*; request_id: req_simulator000003$"):
            await client.get(PATH, {})
    [line] = logs
    assert line["request_id"] == "req_simulator000002"


async def test_an_answer_that_is_no_list_is_named_by_its_request(
    simulator: StripeSimulator,
) -> None:
    async def other(_request: web.Request, _serve: faults.Serve) -> web.StreamResponse:
        return web.json_response({"object": "customer"})

    simulator.faults.add(other)
    resource = load_resources()["customers"]
    async with StripeClient(config_for(simulator), QUICK) as client:
        with pytest.raises(RequestFailed, match="whose objects have ids; request_id: req_sim"):
            await fetch_page(client, resource, Range(), 100)


async def test_a_client_shows_its_key_nowhere(simulator: StripeSimulator, logs: list[Any]) -> None:
    async with StripeClient(config_for(simulator), QUICK) as client:
        simulator.faults.add(faults.connection_reset(), times=2)
        answer = await client.get(PATH, {})
        simulator.faults.add(faults.connection_reset(), times=None)
        with pytest.raises(RequestFailed) as caught:
            await client.get(PATH, {})
    # A chained exception of aiohttp would carry the request's headers.
    assert caught.value.__cause__ is caught.value.__context__ is None
    shown = [repr(client), str(client), repr(answer), repr(logs), repr(caught.value)]
    assert simulator.api_key not in "".join(shown)


async def test_an_error_is_told_in_characters_that_anything_can_hold(
    simulator: StripeSimulator, logs: list[Any]
) -> None:
    async def odd(request: web.Request, serve: faults.Serve) -> web.StreamResponse:
        body = (
            b'{"error":{"message":"no \\ud83d and a\\u0000b","code":"\\udc00","param":"\\u0000"}}'
        )
        return web.Response(status=400, body=body, content_type="application/json")

    simulator.faults.add(odd)
    async with StripeClient(config_for(simulator), QUICK) as client:
        with pytest.raises(RequestFailed) as failed:
            await client.get(PATH, {})
    error = failed.value
    assert error.stripe_message == "no \ufffd and a\ufffdb"
    assert (error.stripe_code, error.param) == ("\ufffd", "\ufffd")
    assert "no \ufffd and a\ufffdb" in str(error)


@pytest.mark.parametrize("bad", [b'{"data":[{"id":"\xff"}],"has_more":false}', b'{"id":"a\x00b"}'])
async def test_bytes_that_no_json_has_are_asked_for_again(
    simulator: StripeSimulator, logs: list[Any], bad: bytes
) -> None:
    """A proxy may break what Stripe sent; Stripe sends UTF-8, and escapes control characters."""

    async def broken(request: web.Request, serve: faults.Serve) -> web.StreamResponse:
        return web.Response(body=bad, content_type="application/json")

    simulator.faults.add(broken)
    async with StripeClient(config_for(simulator), QUICK) as client:
        page = await fetch_page(client, load_resources()["customers"], Range(), 100)
    assert len(page.objects) == 100
    [retried] = [line for line in logs if line["event"] == "stripe_request_retried"]
    assert retried["error"].startswith("the body is not whole JSON")
