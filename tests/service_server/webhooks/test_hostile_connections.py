"""Tests that slow, silent and greedy connections do not delay others."""

import asyncio
import resource
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from pipesync_rpc.credentials import ServerTls
from service_server.background.heartbeats import Heartbeats
from service_server.http import HttpLimits, HttpServer
from service_server.store.database import Database
from service_server.webhooks.receiver import MOST_BYTES
from tests.pipesync_server.certificates import Authority
from tests.service_server.webhooks.callers import (
    HEALTH,
    LIMITS,
    PATIENCE,
    Caller,
    Serve,
    Site,
    delivery,
    head,
    serving,
    until,
)
from tests.service_server.webhooks.conftest import InboxHarness
from tests.service_server.webhooks.deliveries import event, headers

# Short enough that a test can wait for it, and long enough that it does not pass by accident.
SHORT = 0.05


@pytest.fixture
async def serve(harness: InboxHarness, database: Database) -> AsyncIterator[Serve]:
    async with serving(harness, database) as start:
        yield start


@asynccontextmanager
async def locked(database: Database, table: str) -> AsyncIterator[None]:
    """Lock a table during the body."""
    async with database.transaction() as connection:
        await connection.execute(f"LOCK TABLE pipesync.{table} IN ACCESS EXCLUSIVE MODE")
        yield


async def test_300_slow_heads_delay_neither_health_checks_nor_webhooks(serve: Serve) -> None:
    site = await serve(replace(LIMITS, most_connections=200, most_per_address=100))
    await site.calls(300, b"POST /webhooks/hooked HTTP/1.1\r\nX-Slow: ")
    assert await (await site.call()).status(HEALTH) == 200
    assert await (await site.call()).status(delivery(event())) == 200
    assert site.ended("room") >= 200
    assert site.metric("pipesync_http_connections") <= 100


async def test_a_head_that_takes_too_long_ends_its_connection(serve: Serve) -> None:
    site = await serve(replace(LIMITS, head_timeout=1.0))
    silent, slow = await site.calls(1), await site.calls(1, b"GET /healthz HTTP/1.1\r\nX: ")
    later = await site.call()
    assert await later.status(HEALTH) == 200
    await later.send(b"GET /heal")
    for caller in (*silent, *slow, later):
        assert await caller.ended() == b""
    assert site.ended("head_timeout") == 3


async def test_an_idle_connection_is_ended_after_a_while_and_no_earlier(serve: Serve) -> None:
    site = await serve(replace(LIMITS, idle_timeout=SHORT, head_timeout=PATIENCE))
    caller = await site.call()
    assert await caller.status(HEALTH) == 200
    assert await caller.ended() == b""
    assert site.ended("idle_timeout") == 1


async def test_a_head_that_is_too_large_ends_its_connection(serve: Serve) -> None:
    site = await serve(replace(LIMITS, most_head_bytes=1000, idle_timeout=SHORT))
    caller = await site.call()
    await caller.send(b"GET /healthz HTTP/1.1\r\nX: " + b"x" * 2000)
    await caller.ended()
    assert site.ended("head_too_large") == 1


async def test_a_request_without_a_version_is_answered_as_one_of_http_1_0(serve: Serve) -> None:
    site = await serve(LIMITS)
    caller = await site.call()
    await caller.send(b"GET /healthz\r\n\r\n")
    answer = await caller.ended()
    assert answer.startswith(b"HTTP/1.0 200 ")
    assert answer.endswith(b"}")


async def test_a_slow_body_is_answered_408(serve: Serve) -> None:
    site = await serve(replace(LIMITS, body_timeout=SHORT))
    body = event()
    caller = await site.call()
    await caller.send(delivery(body)[:-1])
    assert (await caller.answer())[0] == 408


async def test_slow_bodies_do_not_delay_other_requests(serve: Serve) -> None:
    site = await serve(replace(LIMITS, most_per_address=8))
    await site.harness.receive(event())
    body = event()
    await site.calls(20, delivery(body)[:-1])
    assert await (await site.call()).status(HEALTH) == 200
    assert await (await site.call()).status(delivery(event())) == 200


async def test_a_connection_whose_client_reads_no_responses_is_ended(serve: Serve) -> None:
    site = await serve(replace(LIMITS, answer_timeout=0.4, head_timeout=1.0))
    caller = await site.call()
    caller.writer.transport.pause_reading()  # type: ignore[attr-defined]
    asks = 2000 * b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
    async with asyncio.timeout(PATIENCE):
        with suppress(ConnectionError):
            while True:
                await caller.send(asks)
    # Further requests may or may not have arrived behind the answered ones.
    assert site.ended("answer_timeout") + site.ended("head_timeout") == 1


async def test_at_the_limit_the_longest_waiting_connection_is_ended(serve: Serve) -> None:
    site = await serve(replace(LIMITS, most_per_address=8))
    callers = await site.calls(8)
    assert await callers[0].status(HEALTH) == 200
    newest = await site.call()
    assert await newest.status(HEALTH) == 200
    assert await callers[1].ended() == b""
    for caller in (callers[0], *callers[2:]):
        assert await caller.status(HEALTH) == 200


async def test_requests_in_progress_leave_room_for_health_checks(
    serve: Serve, database: Database
) -> None:
    site = await serve(replace(LIMITS, most_per_address=8))
    await site.harness.receive(event())
    async with locked(database, "webhook_events"):
        callers = await site.calls(8)
        first, *others = [
            asyncio.create_task(caller.status(delivery(event()))) for caller in callers
        ]
        done, waiting = await asyncio.wait(
            [first, *others], timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED
        )
        # The last of eight exceeds the limit.
        assert [task.result() for task in done] == [429]
        assert await (await site.call()).status(HEALTH) == 200
    assert await asyncio.gather(*waiting) == 7 * [200]
    assert site.limited("requests_of_address") == 1


async def test_a_trusted_proxy_has_as_many_connections_as_it_needs(
    serve: Serve, database: Database
) -> None:
    limits = replace(LIMITS, most_connections=100, most_per_address=8)
    site = await serve(limits, ["127.0.0.1"])
    await site.harness.receive(event())
    callers = await site.calls(41)

    def posted(callers: Sequence[Caller], client: str) -> list[asyncio.Task[int]]:
        forwarded = f"X-Forwarded-For: 192.0.2.2, {client}"
        return [
            asyncio.create_task(caller.status(delivery(event(), "hooked", forwarded)))
            for caller in callers
        ]

    async with locked(database, "webhook_events"):
        tasks = [*posted(callers[:20], "192.0.2.1"), *posted(callers[20:40], "192.0.2.2")]
        await until(lambda: site.limited("requests_of_address") == 2 * 13)
        assert await callers[40].status(HEALTH) == 200
    assert sorted(await asyncio.gather(*tasks)) == 2 * 7 * [200] + 2 * 13 * [429]
    assert site.ended("room") == 0


def begun(size: int, client: str) -> bytes:
    """Return the beginning of a large delivery, with ``size`` bytes of its body."""
    forwarded = f"X-Forwarded-For: {client}"
    return head("hooked", None, forwarded, length=MOST_BYTES) + size * b"x"


def body_bytes(site: Site) -> float:
    return site.metric("pipesync_webhook_body_bytes")


async def test_the_memory_for_bodies_of_one_address_is_limited(serve: Serve) -> None:
    site = await serve(replace(LIMITS, most_body_memory_per_address=250_000), ["127.0.0.1"])
    await site.harness.receive(event())
    [first, _] = await site.calls(2, begun(100_000, "192.0.2.1"))
    await until(lambda: body_bytes(site) == 200_000)
    one_more = delivery(event(padding=100_000 * "x"), "hooked", "X-Forwarded-For: 192.0.2.1")
    caller = await site.call()
    await caller.send(one_more)
    status, answered = await caller.answer()
    assert (status, b"Retry-After: 1" in answered) == (429, True)
    assert site.limited("memory_of_address") == 1
    other = delivery(event(), "hooked", "X-Forwarded-For: 192.0.2.2")
    assert await (await site.call()).status(other) == 200
    first.writer.transport.abort()
    await until(lambda: body_bytes(site) == 100_000)
    assert await (await site.call()).status(one_more) == 200
    assert body_bytes(site) == 100_000


async def test_at_the_memory_limit_the_largest_user_loses_its_oldest_body(serve: Serve) -> None:
    site = await serve(replace(LIMITS, most_body_memory=1_000_000), ["127.0.0.1"])
    await site.harness.receive(event())
    [modest] = await site.calls(1, begun(100_000, "192.0.2.1"))
    await until(lambda: body_bytes(site) == 100_000)
    [oldest] = await site.calls(1, begun(400_000, "192.0.2.2"))
    await until(lambda: body_bytes(site) == 500_000)
    await site.calls(1, begun(400_000, "192.0.2.2"))
    await until(lambda: body_bytes(site) == 900_000)
    large = delivery(event(padding=300_000 * "x"), "hooked", "X-Forwarded-For: 192.0.2.3")
    assert await (await site.call()).status(large) == 200
    assert await oldest.ended() == b""
    assert (site.ended("memory"), body_bytes(site)) == (1, 500_000)
    assert not modest.reader.at_eof()


async def test_a_chunked_body_counts_by_the_bytes_that_arrived(serve: Serve) -> None:
    site = await serve()
    await site.harness.receive(event())
    body = event()
    caller = await site.call()
    start = head("hooked", headers(body)["stripe-signature"]).replace(
        b"Content-Length: 0", b"Transfer-Encoding: chunked"
    )
    await caller.send(start + b"%x\r\n" % len(body) + body + b"\r\n")
    await until(lambda: body_bytes(site) == len(body))
    assert await caller.status(b"0\r\n\r\n") == 200
    assert body_bytes(site) == 0


def chunked(body: bytes, size: int, path: str = "webhooks/hooked") -> bytes:
    """Return a delivery in chunks of ``size`` bytes."""
    lines = [f"POST /{path} HTTP/1.1", "Host: x", "Transfer-Encoding: Chunked"]
    lines.append(f"Stripe-Signature: {headers(body)['stripe-signature']}")
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return "\r\n".join([*lines, "", ""]).encode() + chunks + b"0\r\n\r\n"


@pytest.mark.parametrize("path", ["webhooks/hooked", "nowhere"])
@pytest.mark.parametrize("split", [b"", b"Ch", b"Chunke", b"Chunked", b"Chunked\r"])
async def test_a_body_of_tiny_chunks_ends_its_connection(
    serve: Serve, path: str, split: bytes
) -> None:
    site = await serve()
    caller = await site.call()
    start, found, rest = chunked(event(name="x" * 100_000), 1, path).partition(split or b"POST")
    await caller.send(start + found)
    # The split is between two reads of the server.
    await asyncio.sleep(SHORT)
    with suppress(ConnectionError):
        await caller.send(rest)
    await caller.ended()
    assert site.ended("fragmented") == 1


async def test_tiny_chunks_that_arrive_one_by_one_end_their_connection(serve: Serve) -> None:
    site = await serve()
    caller = await site.call()
    sent = chunked(event(name="x" * 1000), 1, "nowhere")
    with suppress(ConnectionError):
        for start in range(0, len(sent), 4):
            await caller.send(sent[start : start + 4])
            await asyncio.sleep(0)
    await caller.ended()
    assert site.ended("fragmented") == 1


async def test_a_body_of_short_lines_and_a_chunked_body_are_accepted(serve: Serve) -> None:
    site = await serve()
    lines = event(name="x").replace(b",", b"," + b"\r\n" * 2000)
    assert await (await site.call()).status(delivery(lines)) == 200
    assert await (await site.call()).status(chunked(event(name="x" * 100_000), 1000)) == 200
    assert site.ended("fragmented") == 0


async def test_a_content_length_with_a_chunked_body_is_refused(serve: Serve) -> None:
    site = await serve()
    caller = await site.call()
    await caller.send(head("hooked", None, "Transfer-Encoding: chunked", length=3) + b"0\r\n\r\n")
    assert b" 400 " in await caller.ended()
    assert site.metric("pipesync_http_malformed_requests_total") == 1


async def test_100_continue_is_sent_after_the_headers_are_checked(serve: Serve) -> None:
    site = await serve()
    body = event()
    caller = await site.call()
    signature = headers(body)["stripe-signature"]
    for path, signed in (("absent", signature), ("hooked", ""), ("hooked", "t=1,v1=0")):
        lines = "Expect: 100-continue"
        refused = await site.call()
        status = await refused.status(head(path, signed, lines, length=len(body)))
        assert status == (404 if path == "absent" else 401)
    await caller.send(head("hooked", signature, "Expect: 100-continue", length=len(body)))
    async with asyncio.timeout(PATIENCE):
        assert await caller.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert await caller.status(body) == 200


@pytest.mark.parametrize("path", ["/healthz", "/metrics", "/absent", "/webhooks/hooked"])
@pytest.mark.parametrize("expected", [b"\xff\xfe", b"200-ok", b""])
async def test_an_unknown_expectation_causes_no_server_error(
    serve: Serve, path: str, expected: bytes
) -> None:
    site = await serve()
    method = "POST" if path == "/webhooks/hooked" else "GET"
    start = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n".encode()
    status = await (await site.call()).status(start + b"Expect: " + expected + b"\r\n\r\n")
    assert status < 500


@pytest.mark.parametrize("path", ["webhooks/absent", "nowhere"])
async def test_a_refused_client_has_to_reconnect(serve: Serve, path: str) -> None:
    caller = await (await serve()).call()
    refused = f"POST /{path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode()
    await caller.send(refused + HEALTH)
    status, head = await caller.answer()
    assert status == 404
    assert b"\r\nconnection: close\r\n" in head.lower()
    assert await caller.ended() == b""


async def test_the_connection_of_a_trusted_proxy_stays_open_after_a_refusal(serve: Serve) -> None:
    site = await serve(LIMITS, ["127.0.0.1"])
    caller = await site.call()
    refused = delivery(event(padding=200_000 * "x"), "absent")
    for _ in range(3):
        assert await caller.status(refused) == 404
        assert await caller.status(delivery(event())) == 200
    assert await caller.status(refused + HEALTH) == 404
    assert (await caller.answer())[0] == 200


async def test_a_handshake_that_takes_too_long_ends_its_connection(
    serve: Serve, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    certificate, private_key = authority.issue("server")
    tls = ServerTls(certificate=certificate, private_key=private_key)
    limits = replace(LIMITS, handshake_timeout=2.0, most_per_address=8)
    site = await serve(limits, tls=tls)
    silent = await site.calls(20)
    known = ssl.create_default_context(cafile=str(authority.certificate))
    assert await (await site.call(known)).status(HEALTH) == 200
    assert site.ended("room") >= 13
    for caller in silent:
        assert await caller.ended() == b""
    await until(lambda: site.metric("pipesync_http_connections") == 1)
    [broken] = await site.calls(1, b"no hello\r\n\r\n")
    await broken.ended()
    await until(lambda: site.ended("handshake_failed") >= 1)


@pytest.mark.parametrize(
    ("allowed", "most"), [(1024, 512), (20_000, 1000), (resource.RLIM_INFINITY, 1000)]
)
def test_connections_take_at_most_half_of_the_file_descriptors(
    monkeypatch: pytest.MonkeyPatch, allowed: int, most: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (allowed, allowed))
    assert HttpLimits(most_connections=1000).connections_within_descriptors() == most


@pytest.mark.parametrize("kind", ["unix", "IPv6"])
async def test_it_listens_on_unix_sockets_and_ipv6_too(
    harness: InboxHarness, database: Database, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "http.sock"
    for _ in range(2):
        async with HttpServer(
            listen=f"unix:{path}" if kind == "unix" else "[::1]:0",
            receiver=harness.receiver,
            database=database,
            metrics=harness.metrics,
            heartbeats=Heartbeats(),
        ) as server:
            if kind == "unix":
                assert server.address == f"unix:{path}"
                opening = asyncio.open_unix_connection(str(path))
            else:
                assert server.address.startswith("http://[::1]:")
                port = int(server.address.rpartition(":")[2])
                opening = asyncio.open_connection("::1", port)
            caller = Caller(*await opening)
            assert await caller.status(HEALTH) == 200
            await caller.close()
