"""Messages of callers without a token: few are read at once, and none is large."""

# Call types are generic in their stubs only.
from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from google.rpc import code_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from pipesync_rpc.channel import DIRECT, open_channel
from pipesync_rpc.errors import RpcError
from pipesync_rpc.limits import SIZE_OPTIONS
from pipesync_rpc.status import from_grpc
from pipesync_server.interceptors import reading
from pipesync_server.tokens import hash_token
from tests.pipesync_server.observed_budgets import ObservedBudgets
from tests.pipesync_server.scripted_engine import engine_server, scripted_engine
from tests.pipesync_server.test_messages import (
    HEALTH,
    HEALTH_WATCH,
    REFLECTION,
    bytes_call,
    failure,
    peak_memory,
)
from tests.processes import running

# Gives a channel a connection of its own.
OWN = ("grpc.use_local_subchannel_pool", 1)
MAX_GROWTH = 1_500_000_000
SERVING = health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("method", [HEALTH, HEALTH_WATCH, REFLECTION])
async def test_silent_calls_without_a_token_end_and_delay_no_check(method: str) -> None:
    budgets = ObservedBudgets()
    async with (
        engine_server(scripted_engine(), budgets=budgets) as server,
        grpc.aio.insecure_channel(server.address, options=[DIRECT, OWN]) as channel,
        grpc.aio.insecure_channel(server.address, options=[DIRECT, OWN]) as another,
    ):
        shape: Any = channel.stream_stream
        silent = [shape(method)() for _ in range(70)]

        async def outcome(call: Any) -> RpcError:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
            return from_grpc(caught.value)

        outcomes = [asyncio.ensure_future(outcome(call)) for call in silent]
        health: Any = health_pb2_grpc.HealthStub(another)
        assert (await health.Check(health_pb2.HealthCheckRequest())).status == SERVING
        # Two calls are still waited for, because no other call needs their slots.
        for done in asyncio.as_completed(outcomes):
            error = await done
            assert (error.code, error.reason) == (
                code_pb2.RESOURCE_EXHAUSTED,
                "REQUEST_NOT_RECEIVED",
            )
            assert error.retry_delay is not None
            if sum(one.done() for one in outcomes) >= len(outcomes) - reading._MAX_READ:
                break
        assert (await health.Check(health_pb2.HealthCheckRequest())).status == SERVING
        for one in outcomes:
            one.cancel()


async def test_silent_calls_that_time_out_leave_room_for_others() -> None:
    slots = reading.UnknownCallerSlots(seconds=0.1)

    async def never() -> None:
        await asyncio.Event().wait()

    async def outcome(connection: str) -> RpcError:
        with pytest.raises(reading.RequestNotReceived) as caught:
            await slots.bounded(connection, never)
        return caught.value

    errors = await asyncio.gather(*(outcome(f"ipv4:10.0.0.{one}:1") for one in range(40)))
    assert {error.code for error in errors} == {
        code_pb2.DEADLINE_EXCEEDED,
        code_pb2.RESOURCE_EXHAUSTED,
    }

    async def at_once() -> str:
        return "there"

    assert await slots.bounded("ipv4:10.0.0.1:1", at_once) == "there"


async def test_connections_that_were_late_wait_for_those_that_were_not() -> None:
    slots = reading.UnknownCallerSlots(seconds=30)
    read: list[str] = []
    release = asyncio.Event()

    async def late() -> None:
        await release.wait()

    async def prompt(connection: str) -> None:
        async def there() -> None:
            read.append(connection)

        await slots.bounded(connection, there)

    async def given_up(connection: str) -> None:
        with pytest.raises(reading.RequestNotReceived):
            await slots.bounded(connection, late)

    # Two late messages of one connection lose their slots to a connection that was never late.
    hostile = [asyncio.create_task(given_up("hostile")) for _ in range(2)]
    await asyncio.sleep(0)
    await prompt("honest")
    await asyncio.wait(hostile, return_when=asyncio.FIRST_COMPLETED)
    # From now on this connection is read after others.
    hostile += [asyncio.create_task(given_up("hostile")) for _ in range(3)]
    others = [asyncio.create_task(prompt(name)) for name in ("hostile", "honest", "another")]
    await asyncio.gather(*others)
    assert read == ["honest", "honest", "another", "hostile"]
    for one in hostile:
        one.cancel()
    await asyncio.wait(hostile)


@pytest.mark.parametrize("method", [HEALTH, HEALTH_WATCH, REFLECTION])
async def test_large_messages_without_a_token_are_refused(method: str) -> None:
    async with engine_server(scripted_engine()) as server, open_channel(server.address) as channel:
        error = from_grpc(await failure(bytes_call(channel, method, b"\x0a\x88\x27" + b"x" * 5000)))
    assert (error.code, error.reason) == (code_pb2.INVALID_ARGUMENT, "UNDECODABLE_REQUEST")
    assert error.message.startswith("the 5003 bytes of the request are more than the 4096")


async def test_large_messages_without_a_token_use_limited_memory() -> None:
    hashes = {"PIPESYNC_TOKEN_HASHES": hash_token("known")}
    message = bytes(60_000_000)
    async with (
        running("engine_server", "--listen", "127.0.0.1:0", environment=hashes) as server,
        grpc.aio.insecure_channel(server.address, options=[DIRECT, *SIZE_OPTIONS]) as channel,
    ):
        check: Any = channel.unary_unary(HEALTH)
        await check(b"")
        before = peak_memory(server.pid)
        errors = await asyncio.gather(*(failure(check(message)) for _ in range(24)))
        growth = peak_memory(server.pid) - before
        await check(b"", wait_for_ready=True)
    assert {error.code() for error in errors} <= {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        # On a busy machine 1.4 GB keep the caller from answering the engine's pings.
        grpc.StatusCode.UNAVAILABLE,
    }
    # Without a limit they would take 3 GB.
    assert growth < MAX_GROWTH
