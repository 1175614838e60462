"""Round trip of an RpcError over the wire."""

from datetime import timedelta

import grpc
import pytest
from google.rpc import code_pb2

from pipesync.v1.engine_service_pb2 import ListConnectorsRequest
from pipesync.v1.engine_service_pb2_grpc import EngineServiceStub
from pipesync_rpc import context as call_context
from pipesync_rpc.channel import open_channel
from pipesync_rpc.errors import FieldViolation, RpcError
from pipesync_rpc.status import from_grpc
from tests.pipesync_server.scripted_engine import engine_stub, scripted_engine


async def answer_to(error: RpcError) -> RpcError:
    """Return the error that a caller gets when a handler raises ``error``."""
    async with engine_stub(scripted_engine(raises=error)) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.ListConnectors(ListConnectorsRequest())
    return from_grpc(caught.value)


async def test_every_attribute_arrives() -> None:
    call_context.bind(request_id="r-1")
    got = await answer_to(
        RpcError(
            "two fields are wrong — ü",
            code=code_pb2.INVALID_ARGUMENT,
            reason="INVALID_REQUEST",
            metadata={"connector": "stripe"},
            field_violations=[
                FieldViolation("pipeline.source.config.api_key", "is required"),
                FieldViolation("pipeline.id", "is too short"),
            ],
            retry_delay=timedelta(seconds=1.5),
        )
    )
    assert got.message == "two fields are wrong — ü"
    assert got.code == code_pb2.INVALID_ARGUMENT
    assert got.reason == "INVALID_REQUEST"
    assert got.metadata == {"connector": "stripe"}
    assert got.field_violations == (
        FieldViolation("pipeline.source.config.api_key", "is required"),
        FieldViolation("pipeline.id", "is too short"),
    )
    assert got.retry_delay == timedelta(seconds=1.5)
    assert got.request_id == "r-1"


async def test_details_that_the_server_omitted_are_absent() -> None:
    got = await answer_to(RpcError("gone", code=code_pb2.NOT_FOUND, reason="GONE"))
    assert (got.field_violations, got.retry_delay, got.metadata) == ((), None, {})


async def test_a_status_too_large_for_trailers_is_cut_and_still_arrives() -> None:
    got = await answer_to(
        RpcError(
            "x" * 100_000,
            code=code_pb2.INVALID_ARGUMENT,
            field_violations=[FieldViolation(f"streams[{i}]", "y" * 50) for i in range(1000)],
        )
    )
    assert got.code == code_pb2.INVALID_ARGUMENT
    assert got.message == "x" * 4095 + "…"
    assert len(got.field_violations) == 100


async def test_an_unreachable_server_is_named() -> None:
    async with open_channel("127.0.0.1:1") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await EngineServiceStub(channel).ListConnectors(ListConnectorsRequest())
    got = from_grpc(caught.value, "127.0.0.1:1")
    assert got.code == code_pb2.UNAVAILABLE
    assert got.reason == "UNAVAILABLE"
    assert got.message.startswith("the server at 127.0.0.1:1 cannot be reached: ")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (grpc.StatusCode.DEADLINE_EXCEEDED, "the server did not answer in time"),
        (grpc.StatusCode.CANCELLED, "the call to the server was cancelled"),
        (grpc.StatusCode.UNIMPLEMENTED, "the server does not implement this method: odd"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "the server answered RESOURCE_EXHAUSTED: odd"),
    ],
)
def test_a_status_without_details_becomes_a_sentence(code: grpc.StatusCode, message: str) -> None:
    empty = grpc.aio.Metadata()
    got = from_grpc(grpc.aio.AioRpcError(code, empty, empty, details="odd"))
    assert (got.code, got.reason, got.message) == (code.value[0], code.name, message)


def test_details_that_contradict_the_status_are_ignored() -> None:
    details = grpc.aio.Metadata(("grpc-status-details-bin", b"\x08\x05"))
    error = grpc.aio.AioRpcError(
        grpc.StatusCode.INTERNAL, grpc.aio.Metadata(), details, details="replaced"
    )
    assert from_grpc(error).code == code_pb2.INTERNAL
