"""Channels: retries and message sizes."""

import grpc
import pytest
from google.rpc import code_pb2

from pipesync.v1.engine_service_pb2 import ListConnectorsRequest, PipelineWriteRequest
from pipesync.v1.engine_service_pb2_grpc import EngineServiceStub
from pipesync.v1.message_pb2 import Message, RecordBatch
from pipesync_rpc.channel import open_channel
from pipesync_rpc.errors import RpcError
from tests.pipesync_server.scripted_engine import ENGINE_SERVICE, engine_server, scripted_engine

UNAVAILABLE = RpcError("busy", code=code_pb2.UNAVAILABLE)
# The answer of a stopping server to a call that never reached a handler.
CANCELLED = RpcError("stopping", code=code_pb2.CANCELLED)


@pytest.mark.parametrize("refusal", [UNAVAILABLE, CANCELLED])
async def test_an_idempotent_method_is_tried_four_times(refusal: RpcError) -> None:
    engine = scripted_engine(refusal)
    methods = [f"/{ENGINE_SERVICE}/ListConnectors"]
    async with (
        engine_server(engine) as server,
        open_channel(server.address, idempotent_methods=methods) as channel,
    ):
        with pytest.raises(grpc.aio.AioRpcError):
            await EngineServiceStub(channel).ListConnectors(ListConnectorsRequest())
    assert engine.requests == 4


@pytest.mark.parametrize("refusal", [UNAVAILABLE, CANCELLED])
async def test_any_other_method_is_tried_once(refusal: RpcError) -> None:
    engine = scripted_engine(refusal)
    async with (
        engine_server(engine) as server,
        open_channel(
            server.address, idempotent_methods=[f"/{ENGINE_SERVICE}/GetConnector"]
        ) as channel,
    ):
        with pytest.raises(grpc.aio.AioRpcError):
            await EngineServiceStub(channel).ListConnectors(ListConnectorsRequest())
    assert engine.requests == 1


async def test_a_message_of_many_megabytes_fits() -> None:
    batch = RecordBatch(stream="big", records=[bytes(32 * 1024 * 1024)])
    request = PipelineWriteRequest(message=Message(record_batch=batch))
    async with (
        engine_server(scripted_engine()) as server,
        open_channel(server.address) as channel,
    ):
        call = EngineServiceStub(channel).PipelineWrite(iter([request]))
        sizes = [len(answer.message.record_batch.records[0]) async for answer in call]
    assert sizes == [32 * 1024 * 1024]
