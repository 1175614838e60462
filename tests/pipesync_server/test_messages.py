"""Messages of a call: read only once the caller is admitted, decoded, and limited in number."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
from google.rpc import code_pb2
from grpc_health.v1 import health_pb2
from structlog.testing import LogCapture

from pipesync.v1.engine_service_pb2 import (
    ListConnectorsRequest,
    PipelineSyncRequest,
    PipelineWriteRequest,
    PipelineWriteResponse,
)
from pipesync.v1.engine_service_pb2_grpc import EngineServiceStub
from pipesync.v1.message_pb2 import Log, Message
from pipesync_rpc import context as call_context
from pipesync_rpc.channel import DIRECT, open_channel
from pipesync_rpc.limits import SIZE_OPTIONS
from pipesync_rpc.status import from_grpc
from pipesync_server.tokens import hash_token
from tests.pipesync_server.scripted_engine import engine_server, engine_stub, scripted_engine
from tests.processes import running

UNARY = "/pipesync.v1.EngineService/ListConnectors"
ANSWERS_MANY = "/pipesync.v1.EngineService/PipelineSync"
TAKES_MANY = "/pipesync.v1.EngineService/PipelineWrite"
HEALTH = "/grpc.health.v1.Health/Check"
HEALTH_WATCH = "/grpc.health.v1.Health/Watch"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
# A field whose length exceeds the message.
UNDECODABLE = b"\x0a\x7f"

LARGE = 60_000_000
MAX_GROWTH = 120_000_000


@pytest.fixture
def events() -> Iterator[list[Any]]:
    capture = LogCapture()
    structlog.configure(processors=[structlog.contextvars.merge_contextvars, capture])
    yield capture.entries
    structlog.reset_defaults()


def bytes_call(channel: grpc.aio.Channel, method: str, *messages: bytes) -> Any:
    """Return a call that sends these bytes, for a method of any kind."""
    if len(messages) == 1:
        # The request ends with the write: refused between the two, grpc.aio reports an internal
        # error.
        one: Any = channel.unary_stream
        return one(method)(messages[0])

    async def sent() -> AsyncIterator[bytes]:
        for message in messages:
            yield message

    shape: Any = channel.stream_stream
    return shape(method)(sent())


def native_call(channel: grpc.aio.Channel, method: str, message: bytes) -> Any:
    """Return the same call as a generated client makes it."""
    shape: Any = channel.unary_unary if method == UNARY else channel.unary_stream
    return shape(method)(message)


async def finish(call: Any) -> None:
    if isinstance(call, grpc.aio.UnaryUnaryCall):
        await call
        return
    async for _ in call:
        pass


async def failure(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await finish(call)
    return caught.value


@pytest.mark.parametrize(
    "method", [UNARY, ANSWERS_MANY, TAKES_MANY, HEALTH, HEALTH_WATCH, REFLECTION]
)
async def test_undecodable_bytes_are_an_invalid_argument(method: str) -> None:
    call_context.bind(request_id="r")
    heard: list[tuple[str, str]] = []
    engine = scripted_engine()
    async with (
        engine_server(engine, observe=lambda name, code, _: heard.append((name, code))) as server,
        open_channel(server.address) as channel,
    ):
        error = from_grpc(await failure(bytes_call(channel, method, UNDECODABLE)))
    assert (error.code, error.reason) == (code_pb2.INVALID_ARGUMENT, "UNDECODABLE_REQUEST")
    assert error.request_id == "r"
    assert error.message.startswith("the 2 bytes of the request are not the message")
    assert heard == ([] if method.startswith("/grpc.") else [(method, "INVALID_ARGUMENT")])


async def test_text_that_is_not_utf_8_is_an_invalid_argument() -> None:
    async with engine_server(scripted_engine()) as server, open_channel(server.address) as channel:
        message = PipelineWriteRequest(message=Message(log=Log(message="abc"))).SerializeToString()
        error = await failure(
            bytes_call(channel, TAKES_MANY, message.replace(b"abc", b"\xff\xfe\xfd"))
        )
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("method", [UNARY, ANSWERS_MANY, HEALTH, HEALTH_WATCH])
async def test_a_method_of_one_request_refuses_a_call_without_a_request(method: str) -> None:
    engine = scripted_engine()
    async with engine_server(engine) as server, open_channel(server.address) as channel:
        error = from_grpc(await failure(bytes_call(channel, method)))
    assert (error.code, error.reason) == (code_pb2.INVALID_ARGUMENT, "UNDECODABLE_REQUEST")
    assert error.message == "the call ended without a message, and this method takes one"
    assert error.request_id
    assert engine.requests == 0


async def test_a_method_of_one_request_ignores_further_requests() -> None:
    engine = scripted_engine()
    async with engine_server(engine) as server, open_channel(server.address) as channel:
        call: Any = channel.stream_stream(UNARY)()
        await call.write(b"")
        # The stream of requests has no end, and the response does not wait for it.
        await finish(call)
        assert await call.code() is grpc.StatusCode.OK
    assert engine.requests == 1


@pytest.mark.parametrize("method", [UNARY, ANSWERS_MANY, TAKES_MANY])
async def test_a_caller_without_a_token_is_refused_before_it_sends_its_message(method: str) -> None:
    engine = scripted_engine()
    async with (
        engine_server(engine, token_hashes=[hash_token("known")]) as server,
        open_channel(server.address) as channel,
    ):
        call: Any = channel.stream_stream(method)()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert engine.requests == 0


async def test_refused_calls_of_60_mb_use_no_memory() -> None:
    hashes = {"PIPESYNC_TOKEN_HASHES": hash_token("known")}
    message = bytes(LARGE)
    async with (
        running("engine_server", "--listen", "127.0.0.1:0", environment=hashes) as server,
        grpc.aio.insecure_channel(server.address, options=[DIRECT, *SIZE_OPTIONS]) as channel,
    ):
        # One warm-up call of each kind.
        for method in (UNARY, ANSWERS_MANY):
            await failure(native_call(channel, method, b""))
        before = peak_memory(server.pid)
        calls = [native_call(channel, method, message) for method in (UNARY, ANSWERS_MANY) * 4]
        errors = await asyncio.gather(*map(failure, calls))
        growth = peak_memory(server.pid) - before
    assert {error.code() for error in errors} == {grpc.StatusCode.UNAUTHENTICATED}
    assert growth < MAX_GROWTH


def peak_memory(pid: int) -> int:
    """Return the peak memory of a process in bytes."""
    (line,) = [
        line
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith("VmHWM:")
    ]
    return int(line.split()[1]) * 1024


async def test_a_call_may_be_cancelled_at_any_moment(events: list[Any]) -> None:
    engine = scripted_engine()
    async with engine_stub(engine) as stub:
        for turns in range(60):
            for call in (
                stub.ListConnectors(ListConnectorsRequest()),
                stub.PipelineSync(PipelineSyncRequest()),
                stub.PipelineWrite(),
            ):
                for _ in range(turns):
                    await asyncio.sleep(0)
                call.cancel()
        # The server is as healthy as before.
        await stub.ListConnectors(ListConnectorsRequest())
    finished = [event for event in events if event["event"] == "rpc_finished"]
    assert {event["code"] for event in finished} <= {"OK", "CANCELLED"}
    assert not [event for event in events if event["log_level"] == "error"]


async def test_requests_and_responses_alternate() -> None:
    async with engine_stub(scripted_engine()) as stub:
        call = stub.PipelineWrite()
        for text in ("a", "b", "c"):
            await call.write(PipelineWriteRequest(message=Message(log=Log(message=text))))
            answer = await call.read()
            assert isinstance(answer, PipelineWriteResponse)
            assert answer.message.log.message == text
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK


async def test_a_bad_message_in_a_stream_ends_it_after_the_good_ones() -> None:
    good = PipelineWriteRequest(message=Message(log=Log(message="a"))).SerializeToString()
    engine = scripted_engine()
    async with engine_server(engine) as server, open_channel(server.address) as channel:
        call = bytes_call(channel, TAKES_MANY, good, UNDECODABLE)
        answer = PipelineWriteResponse.FromString(await call.read())
        assert answer.message.log.message == "a"
        assert (await failure(call)).code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_deadline_reaches_the_handler_and_ends_the_call() -> None:
    engine = scripted_engine()
    async with engine_stub(engine) as stub:
        call = stub.PipelineSync(PipelineSyncRequest(), timeout=3)
        await anext(aiter(call))
        error = await failure(call)
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await asyncio.wait_for(engine.closed.wait(), 10)
    assert engine.seconds_left is not None
    # A timeout is rounded up on the wire.
    assert 0 < engine.seconds_left < 3.1


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_compressed_requests_are_read(compression: grpc.Compression) -> None:
    engine = scripted_engine()
    text = "a" * 100_000
    async with (
        engine_server(engine) as server,
        grpc.aio.insecure_channel(
            server.address, options=[DIRECT], compression=compression
        ) as channel,
    ):
        stub = EngineServiceStub(channel)
        await stub.ListConnectors(ListConnectorsRequest())

        async def requests() -> AsyncIterator[PipelineWriteRequest]:
            yield PipelineWriteRequest(message=Message(log=Log(message=text)))

        answers = [answer async for answer in stub.PipelineWrite(requests())]
    assert [answer.message.log.message for answer in answers] == [text]


async def test_a_health_check_of_an_empty_message_needs_no_token() -> None:
    async with (
        engine_server(scripted_engine(), token_hashes=[hash_token("known")]) as server,
        open_channel(server.address) as channel,
    ):
        answer = await bytes_call(channel, HEALTH, b"").read()
    assert (
        health_pb2.HealthCheckResponse.FromString(answer).status
        == health_pb2.HealthCheckResponse.SERVING
    )
