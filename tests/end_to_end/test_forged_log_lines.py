"""Callers that can connect cannot write lines into a server's log."""

import asyncio

from pipesync.v1.engine_service_pb2 import ListConnectorsRequest
from pipesync.v1.pipeline_service_pb2 import ListPipelinesRequest
from pipesync_client import EngineClient, PipelineClient
from tests.processes import ServerProcess

# A preface, settings, and a GOAWAY with text: https://www.rfc-editor.org/rfc/rfc9113#section-6.8
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_SETTINGS = b"\0\0\0\4\0\0\0\0\0"
_WORDS = b'\0\0\0\0\0\0\0\1\n{"level": "error", "event": "forged"}\n'
_GOAWAY = len(_WORDS).to_bytes(3, "big") + b"\7\0\0\0\0\0" + _WORDS


async def _say(address: str) -> None:
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(_PREFACE + _SETTINGS + _GOAWAY)
    writer.write_eof()
    await reader.read()
    writer.close()
    await writer.wait_closed()


async def test_a_peer_writes_nothing_into_the_log(
    engine: ServerProcess, service: ServerProcess
) -> None:
    for server in (engine, service):
        await _say(server.address)
    async with EngineClient(engine.address) as client:
        await client.list_connectors(ListConnectorsRequest())
    async with PipelineClient(service.address) as other:
        await other.list_pipelines(ListPipelinesRequest())
    for server in (engine, service):
        await server.wait_for("rpc_finished")
        assert all("timestamp" in event for event in server.events), server.events
