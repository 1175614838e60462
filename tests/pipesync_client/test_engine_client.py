"""Client of the engine, over a real connection."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
from google.rpc import code_pb2

from pipesync.v1.engine_service_pb2 import (
    ListConnectorsRequest,
    ListConnectorsResponse,
    PipelineReadRequest,
    PipelineSyncRequest,
    PipelineWriteRequest,
)
from pipesync.v1.message_pb2 import Log, Message
from pipesync_client import EngineClient
from pipesync_rpc.errors import FieldViolation, RpcError
from pipesync_server.tokens import hash_token
from tests.pipesync_server.scripted_engine import engine_server, scripted_engine


def log_request(text: str) -> PipelineWriteRequest:
    """Return one message to write."""
    return PipelineWriteRequest(message=Message(log=Log(message=text)))


async def test_a_unary_call_returns_its_response() -> None:
    async with (
        engine_server(scripted_engine()) as server,
        EngineClient(server.address) as client,
    ):
        answer = await client.list_connectors(ListConnectorsRequest())
    assert answer == ListConnectorsResponse()


async def test_a_stream_yields_its_responses_in_order() -> None:
    engine = scripted_engine()
    engine.released.set()
    async with engine_server(engine) as server, EngineClient(server.address) as client:
        answers = [answer async for answer in client.pipeline_sync(PipelineSyncRequest())]
    assert [answer.message.log.message for answer in answers] == ["first", "last"]


async def test_requests_and_responses_are_exchanged_concurrently() -> None:
    async def requests() -> AsyncIterator[PipelineWriteRequest]:
        for text in ("a", "b", "c"):
            yield log_request(text)

    async with (
        engine_server(scripted_engine()) as server,
        EngineClient(server.address) as client,
    ):
        answers = [answer async for answer in client.pipeline_write(requests())]
    assert [answer.message.log.message for answer in answers] == ["a", "b", "c"]


async def test_an_exception_of_the_requests_is_raised() -> None:
    async def requests() -> AsyncIterator[PipelineWriteRequest]:
        yield log_request("a")
        raise LookupError("no more")

    async with (
        engine_server(scripted_engine()) as server,
        EngineClient(server.address) as client,
    ):
        with pytest.raises(LookupError, match="no more"):
            async for _ in client.pipeline_write(requests()):
                pass


async def test_an_error_is_raised_as_the_server_raised_it() -> None:
    error = RpcError(
        "api_key is required",
        code=code_pb2.INVALID_ARGUMENT,
        reason="INVALID_REQUEST",
        field_violations=[FieldViolation("pipeline.source.config.api_key", "is required")],
    )
    engine = scripted_engine(error)
    engine.released.set()
    async with engine_server(engine) as server, EngineClient(server.address) as client:
        with pytest.raises(RpcError) as one:
            await client.list_connectors(ListConnectorsRequest())
        with pytest.raises(RpcError) as many:
            async for _ in client.pipeline_sync(PipelineSyncRequest()):
                pass
    for caught in (one.value, many.value):
        assert caught.message == error.message
        assert caught.reason == error.reason
        assert caught.field_violations == error.field_violations
        assert len(caught.request_id) == 32


async def test_an_unreachable_server_is_named() -> None:
    async with EngineClient("127.0.0.1:1") as client:
        with pytest.raises(RpcError, match=r"the server at 127\.0\.0\.1:1 cannot be reached"):
            async for _ in client.pipeline_read(PipelineReadRequest()):
                pass


async def test_a_call_that_exceeds_its_timeout_is_reported() -> None:
    async with (
        engine_server(scripted_engine()) as server,
        EngineClient(server.address) as client,
    ):
        with pytest.raises(RpcError, match="did not answer in time") as caught:
            async for _ in client.pipeline_sync(PipelineSyncRequest(), timeout=0.2):
                pass
    assert caught.value.code == code_pb2.DEADLINE_EXCEEDED


async def test_closing_an_iterator_early_cancels_the_call() -> None:
    engine = scripted_engine()
    async with engine_server(engine) as server, EngineClient(server.address) as client:
        async with aclosing(client.pipeline_sync(PipelineSyncRequest())) as answers:
            await anext(answers)
            await engine.entered.wait()
        await asyncio.wait_for(engine.closed.wait(), 1)


async def test_a_cancelled_caller_cancels_the_call() -> None:
    engine = scripted_engine()
    async with engine_server(engine) as server, EngineClient(server.address) as client:

        async def read() -> None:
            async for _ in client.pipeline_sync(PipelineSyncRequest()):
                pass

        reader = asyncio.create_task(read())
        await engine.entered.wait()
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        await asyncio.wait_for(engine.closed.wait(), 1)


async def test_closing_the_client_during_a_call_raises_an_error_in_the_call() -> None:
    engine = scripted_engine()
    async with engine_server(engine) as server:
        async with EngineClient(server.address) as client:
            answers = client.pipeline_sync(PipelineSyncRequest())
            await anext(answers)
            waiting = asyncio.ensure_future(anext(answers))
            await engine.entered.wait()
        with pytest.raises(RpcError, match="the client was closed") as caught:
            await waiting
        assert caught.value.code == code_pb2.CANCELLED


async def test_a_call_reaches_a_server_that_is_available_again() -> None:
    engine = scripted_engine()
    engine.released.set()
    async with engine_server(engine) as server:
        address = server.address
    async with EngineClient(address) as client:
        # The server was unavailable, so the channel waits before it reconnects.
        with pytest.raises(RpcError) as caught:
            await anext(client.pipeline_sync(PipelineSyncRequest(), timeout=0.2))
        assert caught.value.code in (code_pb2.UNAVAILABLE, code_pb2.DEADLINE_EXCEEDED)
        async with engine_server(engine, listen=address):
            answers = [answer async for answer in client.pipeline_sync(PipelineSyncRequest())]
    assert [answer.message.log.message for answer in answers] == ["first", "last"]


async def test_idempotent_calls_to_a_busy_server_are_retried() -> None:
    engine = scripted_engine(RpcError("busy", code=code_pb2.UNAVAILABLE))
    async with engine_server(engine) as server, EngineClient(server.address) as client:
        with pytest.raises(RpcError, match="busy"):
            await client.list_connectors(ListConnectorsRequest())
    assert engine.requests == 4


async def test_the_token_is_sent() -> None:
    engine = scripted_engine()
    async with (
        engine_server(engine, token_hashes=[hash_token("abc")]) as server,
        EngineClient(server.address, token="abc") as client,
    ):
        await client.list_connectors(ListConnectorsRequest())
    assert engine.metadata["authorization"] == "Bearer abc"


async def test_a_client_works_only_while_it_is_open() -> None:
    client = EngineClient("127.0.0.1:1")
    with pytest.raises(RuntimeError, match="not open yet"):
        await client.list_connectors(ListConnectorsRequest())
    async with client:
        with pytest.raises(RuntimeError, match="entered once"):
            await client.__aenter__()
    with pytest.raises(RuntimeError, match="is closed"):
        client.pipeline_sync(PipelineSyncRequest())
    with pytest.raises(RuntimeError, match="entered once"):
        await client.__aenter__()


async def test_waiting_for_a_server_counts_towards_the_timeout() -> None:
    clock = asyncio.get_running_loop().time
    async with engine_server(scripted_engine()) as server:
        address = server.address

    async def call(client: EngineClient) -> None:
        async for _ in client.pipeline_sync(PipelineSyncRequest(), timeout=2.0):
            pass

    async with EngineClient(address) as client:
        began = clock()
        calling = asyncio.create_task(call(client))
        await asyncio.sleep(1.0)
        async with engine_server(scripted_engine(), listen=address):
            with pytest.raises(RpcError) as error:
                await calling
            assert clock() - began < 2.7
    assert error.value.code == code_pb2.DEADLINE_EXCEEDED
