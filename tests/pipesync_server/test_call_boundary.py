"""Boundary of a call: identifiers, statuses, one log event, closed generators."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest
import structlog
from google.rpc import code_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from structlog.testing import LogCapture

from pipesync.v1.engine_service_pb2 import (
    GetConnectorRequest,
    ListConnectorsRequest,
    PipelineReadRequest,
    PipelineSyncBatchRequest,
    PipelineSyncRequest,
    PipelineWriteRequest,
)
from pipesync.v1.engine_service_pb2_grpc import EngineServiceStub
from pipesync.v1.message_pb2 import Log, Message
from pipesync_rpc import context as call_context
from pipesync_rpc.channel import DIRECT
from pipesync_rpc.errors import RpcError
from pipesync_rpc.status import from_grpc
from tests.pipesync_server.scripted_engine import engine_server, engine_stub, scripted_engine

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def events() -> Iterator[list[Any]]:
    """Yield the log events of the test, with the identifiers bound at the time."""
    capture = LogCapture()
    structlog.configure(processors=[structlog.contextvars.merge_contextvars, capture])
    yield capture.entries
    structlog.reset_defaults()


async def write_requests() -> AsyncIterator[PipelineWriteRequest]:
    """Yield two messages to write."""
    for text in ("a", "b"):
        yield PipelineWriteRequest(message=Message(log=Log(message=text)))


async def finish(call: Any) -> None:
    """Await the end of a call of any kind."""
    if isinstance(call, grpc.aio.UnaryUnaryCall):
        await call
        return
    async for _ in call:
        pass


async def test_identifiers_travel_with_every_kind_of_call() -> None:
    call_context.bind(request_id="r-1", pipeline_id="orders", traceparent=TRACEPARENT)
    engine = scripted_engine()
    engine.released.set()
    sent = {"request_id": "r-1", "pipeline_id": "orders", "traceparent": TRACEPARENT}
    async with engine_stub(engine) as stub:
        call = stub.ListConnectors(ListConnectorsRequest())
        await call
        assert engine.identifiers == sent
        assert (await call.trailing_metadata())["x-request-id"] == "r-1"

        engine.identifiers = {}
        answers = [answer async for answer in stub.PipelineSync(PipelineSyncRequest())]
        assert [answer.message.log.message for answer in answers] == ["first", "last"]
        assert engine.identifiers == sent

        engine.identifiers = {}
        writes = [answer async for answer in stub.PipelineWrite(write_requests())]
        assert [answer.message.log.message for answer in writes] == ["a", "b"]
        assert engine.identifiers == sent


@pytest.mark.parametrize(
    "metadata",
    [(), (("x-request-id", "a b"), ("x-pipeline-id", "x" * 129), ("traceparent", "00"))],
)
async def test_a_missing_or_malformed_identifier_is_replaced_or_dropped(
    metadata: tuple[tuple[str, str], ...],
) -> None:
    engine = scripted_engine()
    async with (
        engine_server(engine) as server,
        grpc.aio.insecure_channel(server.address, options=[DIRECT]) as channel,
    ):
        call = EngineServiceStub(channel).ListConnectors(ListConnectorsRequest(), metadata=metadata)
        await call
    assert re.fullmatch("[0-9a-f]{32}", engine.identifiers["request_id"])
    assert (await call.trailing_metadata())["x-request-id"] == engine.identifiers["request_id"]
    assert engine.identifiers["pipeline_id"] == ""
    assert engine.identifiers["traceparent"] == ""


async def test_an_unknown_exception_reveals_only_the_request_id(
    events: list[Any],
) -> None:
    call_context.bind(request_id="r-9")
    async with engine_stub(scripted_engine(raises=ValueError("sk_live_secret"))) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.ListConnectors(ListConnectorsRequest())
    error = from_grpc(caught.value)
    assert error.code == code_pb2.INTERNAL
    assert error.reason == "INTERNAL"
    assert error.message == "internal error; quote request id r-9 when you report it"
    assert "sk_live_secret" not in str(caught.value.trailing_metadata())
    (failed,) = [event for event in events if event["event"] == "rpc_failed"]
    assert str(failed["exc_info"]) == "sk_live_secret"
    assert failed["request_id"] == "r-9"


async def test_an_rpc_error_becomes_its_status_in_every_kind_of_call() -> None:
    engine = scripted_engine(raises=RpcError("no", code=code_pb2.ABORTED, reason="LOST_LEASE"))
    engine.released.set()
    async with engine_stub(engine) as stub:
        for call in (
            stub.ListConnectors(ListConnectorsRequest()),
            stub.PipelineSync(PipelineSyncRequest()),
            stub.PipelineWrite(write_requests()),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await finish(call)
            error = from_grpc(caught.value)
            assert (error.code, error.reason) == (code_pb2.ABORTED, "LOST_LEASE")
            assert error.message == "no"


async def test_a_foreign_cancellation_is_an_internal_error() -> None:
    engine = scripted_engine(asyncio.CancelledError())
    engine.released.set()
    async with engine_stub(engine) as stub:
        for call in (
            stub.ListConnectors(ListConnectorsRequest(), timeout=10),
            stub.PipelineSync(PipelineSyncRequest(), timeout=10),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await finish(call)
            assert caught.value.code() is grpc.StatusCode.INTERNAL


async def test_a_handler_may_abort_by_itself() -> None:
    async with engine_stub(scripted_engine()) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetConnector(GetConnectorRequest())
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert caught.value.details() == "no such connector"


async def test_a_missing_method_is_unimplemented() -> None:
    async with engine_stub(scripted_engine()) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.PipelineSyncBatch(PipelineSyncBatchRequest())
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await finish(stub.PipelineRead(PipelineReadRequest()))
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_each_call_logs_one_event_with_its_identifiers(events: list[Any]) -> None:
    call_context.bind(request_id="r-2", pipeline_id="orders")
    async with engine_stub(scripted_engine()) as stub:
        await stub.ListConnectors(ListConnectorsRequest())
    (finished,) = [event for event in events if event["event"] == "rpc_finished"]
    assert finished["method"] == "/pipesync.v1.EngineService/ListConnectors"
    assert finished["code"] == "OK"
    assert finished["duration_ms"] >= 0
    assert finished["request_id"] == "r-2"
    assert finished["pipeline_id"] == "orders"


async def test_a_log_that_fails_does_not_break_the_call() -> None:
    def refuse(*_: Any) -> Any:
        raise OSError("no space left on device")

    async with engine_stub(scripted_engine()) as stub:
        structlog.configure(processors=[refuse])
        try:
            await stub.ListConnectors(ListConnectorsRequest())
        finally:
            structlog.reset_defaults()


async def test_a_cancelled_call_closes_its_handler_at_once(events: list[Any]) -> None:
    engine = scripted_engine()
    async with engine_stub(engine) as stub:
        call = stub.PipelineSync(PipelineSyncRequest())
        await anext(aiter(call))
        await engine.entered.wait()
        call.cancel()
        await asyncio.wait_for(engine.closed.wait(), 1)
    (finished,) = [event for event in events if event["event"] == "rpc_finished"]
    assert finished["code"] == "CANCELLED"


async def test_the_observer_is_called_for_every_call_to_the_services() -> None:
    heard: asyncio.Queue[tuple[str, str, float]] = asyncio.Queue()

    def observe(method: str, code: str, seconds: float) -> None:
        heard.put_nowait((method, code, seconds))

    engine = scripted_engine()
    async with (
        engine_server(engine, observe=observe) as server,
        grpc.aio.insecure_channel(server.address, options=[DIRECT]) as channel,
    ):
        stub = EngineServiceStub(channel)
        health: Any = health_pb2_grpc.HealthStub(channel)
        await health.Check(health_pb2.HealthCheckRequest())
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.GetConnector(GetConnectorRequest())
        engine.released.set()
        await finish(stub.PipelineSync(PipelineSyncRequest()))
        ended = [await heard.get() for _ in range(2)]
    assert [(method, code) for method, code, _ in ended] == [
        ("/pipesync.v1.EngineService/GetConnector", "NOT_FOUND"),
        ("/pipesync.v1.EngineService/PipelineSync", "OK"),
    ]
    assert all(0 < seconds < 60 for _, _, seconds in ended)
