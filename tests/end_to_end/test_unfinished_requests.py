"""Requests of callers with a token that begin to arrive at a server and never end."""

# Call types are generic in their stubs only.
from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.fernet import Fernet
from google.rpc import code_pb2

from pipesync.v1.pipeline_service_pb2 import ListPipelinesRequest
from pipesync.v1.pipeline_service_pb2_grpc import PipelineServiceStub
from pipesync_rpc.channel import DIRECT
from pipesync_rpc.context import AUTHORIZATION_KEY
from pipesync_rpc.errors import RpcError
from pipesync_rpc.limits import SIZE_OPTIONS
from pipesync_rpc.status import from_grpc
from pipesync_server.tokens import hash_token
from tests.loopback_server import LoopbackServer
from tests.processes import running

OWN = ("grpc.use_local_subchannel_pool", 1)
TOKEN = ((AUTHORIZATION_KEY, "Bearer known"),)
METHOD = "/pipesync.v1.PipelineService/CreatePipeline"
CALLS = 100
MESSAGE_BYTES = 8_000_000
ARRIVING_BYTES = 7_000_000
# The requests that a server reads at once: one for each 8 MiB that requests may take.
SLOTS = 16


@asynccontextmanager
async def cut_off(address: str, most: int) -> AsyncIterator[str]:
    """Forward at most ``most`` bytes of each connection to the address, and all answers.

    Yields:
        The address to connect to.
    """
    host, port = address.rsplit(":", 1)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(host, int(port))

        async def send() -> None:
            left = most
            while left and (data := await reader.read(min(left, 1 << 20))):
                far_writer.write(data)
                await far_writer.drain()
                left -= len(data)

        sending = asyncio.ensure_future(send())
        try:
            while data := await far_reader.read(1 << 16):
                writer.write(data)
        finally:
            sending.cancel()
            far_writer.close()

    async with LoopbackServer(serve) as server:
        yield f"127.0.0.1:{server.port}"


def memory(pid: int) -> int:
    """Return the memory that the process has now, in bytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def refusals(calls: list[Any], count: int) -> list[RpcError]:
    """Return the errors of the first ``count`` calls that end."""

    async def refusal(call: Any) -> RpcError:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        return from_grpc(caught.value)

    waiting = [asyncio.ensure_future(refusal(call)) for call in calls]
    errors = [await one for one in itertools.islice(asyncio.as_completed(waiting), count)]
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    return errors


async def test_unfinished_requests_take_bounded_memory_and_make_way_for_others(
    database_url: str,
) -> None:
    environment = {
        "PIPESYNC_DATABASE_URL": database_url,
        "PIPESYNC_ENGINE": "127.0.0.1:1",
        "PIPESYNC_ENCRYPTION_KEYS": Fernet.generate_key().decode(),
        "PIPESYNC_TOKEN_HASHES": hash_token("known"),
        "PIPESYNC_MAX_REQUEST_MIB": f"{8 * SLOTS}",
    }
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(
            running("service_server", "--listen", "127.0.0.1:0", environment=environment)
        )
        honest = await stack.enter_async_context(
            grpc.aio.insecure_channel(server.address, options=[DIRECT, OWN])
        )
        list_pipelines = PipelineServiceStub(honest).ListPipelines
        await list_pipelines(ListPipelinesRequest(), metadata=TOKEN)
        before = memory(server.pid)
        way = await stack.enter_async_context(cut_off(server.address, ARRIVING_BYTES))
        unfinished = []
        for _ in range(CALLS):
            channel: Any = await stack.enter_async_context(
                grpc.aio.insecure_channel(way, options=[DIRECT, OWN, *SIZE_OPTIONS])
            )
            unfinished.append(channel.unary_unary(METHOD)(bytes(MESSAGE_BYTES), metadata=TOKEN))
        errors = await refusals(unfinished, CALLS - SLOTS)
        growth = memory(server.pid) - before
        await list_pipelines(ListPipelinesRequest(), metadata=TOKEN)
    for error in errors:
        assert (error.code, error.reason) == (
            code_pb2.RESOURCE_EXHAUSTED,
            "REQUEST_NOT_RECEIVED",
        )
        assert error.retry_delay is not None
    assert growth < CALLS * ARRIVING_BYTES / 2
