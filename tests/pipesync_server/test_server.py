"""Lifetime of a server, from its port to its last call."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, cast

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from pipesync.v1.engine_service_pb2 import (
    GetConnectorRequest,
    ListConnectorsRequest,
    PipelineSyncRequest,
)
from pipesync.v1.engine_service_pb2_grpc import EngineServiceStub
from pipesync_rpc.channel import open_channel
from pipesync_rpc.credentials import CannotListen
from pipesync_server.budgets import Budget, BudgetPlan, Budgets
from pipesync_server.tokens import hash_token
from tests.pipesync_server.scripted_engine import (
    ENGINE_SERVICE,
    engine_server,
    engine_stub,
    scripted_engine,
)

ONE_CALL = BudgetPlan(sizes={Budget.CALLS: 1, Budget.HEALTH: 1}, total=1)
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def test_port_0_chooses_a_free_port_and_reports_it() -> None:
    async with engine_server(scripted_engine()) as server:
        host, _, port = server.address.rpartition(":")
        assert host == "127.0.0.1"
        assert int(port) > 0


async def test_a_server_listens_on_a_unix_socket(tmp_path: object) -> None:
    address = f"unix:{tmp_path}/engine.sock"
    async with (
        engine_server(scripted_engine(), listen=address) as server,
        open_channel(server.address) as channel,
    ):
        assert server.address == address
        await EngineServiceStub(channel).ListConnectors(ListConnectorsRequest())


async def test_a_port_in_use_is_refused_in_a_sentence() -> None:
    async with engine_server(scripted_engine()) as server:
        with pytest.raises(CannotListen, match=f"cannot listen on {server.address}: "):
            await engine_server(scripted_engine(), listen=server.address).start()


async def test_health_knows_every_service_and_the_server() -> None:
    async with engine_server(scripted_engine()) as server, open_channel(server.address) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        for name in ("", ENGINE_SERVICE):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await health.Check(health_pb2.HealthCheckRequest(service="nobody"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_reflection_lists_the_services() -> None:
    async with engine_server(scripted_engine()) as server, open_channel(server.address) as channel:
        # Its stubs accept synchronous channels only.
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(cast("Any", channel))
        call = stub.ServerReflectionInfo(
            iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        )
        answers = [answer async for answer in call]
    names = {service.name for service in answers[0].list_services_response.service}
    assert names == {
        ENGINE_SERVICE,
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }


async def test_draining_lets_calls_end_and_waits_for_their_last_line() -> None:
    engine = scripted_engine()
    server = engine_server(engine, on_drain=engine.released.set)
    await server.start()
    async with open_channel(server.address) as channel:
        call = EngineServiceStub(channel).PipelineSync(PipelineSyncRequest())
        first = await anext(aiter(call))
        await engine.entered.wait()
        await server.drain()
        assert engine.closed.is_set()
        rest = [answer async for answer in call]
    assert [answer.message.log.message for answer in (first, *rest)] == ["first", "last"]
    assert await call.code() is grpc.StatusCode.OK


async def test_draining_cancels_calls_that_outlast_the_grace() -> None:
    engine = scripted_engine()
    server = engine_server(engine, grace=0.05)
    await server.start()
    async with open_channel(server.address) as channel:
        call = EngineServiceStub(channel).PipelineSync(PipelineSyncRequest())
        await anext(aiter(call))
        await engine.entered.wait()
        await server.drain()
        assert engine.closed.is_set()
        with pytest.raises(grpc.aio.AioRpcError):
            await anext(aiter(call))


async def test_draining_notifies_health_watches_and_does_not_wait_for_them() -> None:
    server = engine_server(scripted_engine())
    await server.start()
    async with open_channel(server.address) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        answers = aiter(health.Watch(health_pb2.HealthCheckRequest()))
        assert (await anext(answers)).status == SERVING
        await asyncio.wait_for(server.drain(), 5)
        assert (await anext(answers)).status == NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await anext(answers)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_calls_that_arrive_while_draining_do_not_delay_the_end() -> None:
    """grpc.aio forgets some of them if they are calls of several methods."""
    for _ in range(10):
        server = engine_server(scripted_engine(), grace=60.0)
        await server.start()
        async with open_channel(server.address) as channel:
            stub = EngineServiceStub(channel)
            calls: list[Callable[[], Awaitable[Any]]] = [
                partial(stub.ListConnectors, ListConnectorsRequest()),
                partial(stub.GetConnector, GetConnectorRequest()),
            ]
            callers = [asyncio.create_task(_repeat(calls[number % 2])) for number in range(60)]
            await calls[0]()
            async with asyncio.timeout(20):
                await server.drain()
                ends = await asyncio.gather(*callers, return_exceptions=True)
        assert all(isinstance(end, grpc.aio.AioRpcError) for end in ends)


async def _repeat(call: Callable[[], Awaitable[Any]]) -> None:
    while True:
        await call()


async def test_a_server_that_never_started_can_drain() -> None:
    await engine_server(scripted_engine()).drain()


async def test_one_call_too_many_is_refused() -> None:
    engine = scripted_engine()
    async with (
        engine_server(engine, budgets=Budgets(ONE_CALL, {})) as server,
        open_channel(server.address) as open_one,
    ):
        stub = EngineServiceStub(open_one)
        call = stub.PipelineSync(PipelineSyncRequest())
        await anext(aiter(call))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.ListConnectors(ListConnectorsRequest())
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        engine.released.set()
        async for _ in call:
            pass
        await stub.ListConnectors(ListConnectorsRequest())


async def test_calls_require_a_token_and_health_checks_do_not() -> None:
    options: dict[str, Any] = {"token_hashes": [hash_token("open sesame"), hash_token("other")]}
    engine = scripted_engine()
    async with engine_stub(engine, token="open sesame", **options) as stub:
        await stub.ListConnectors(ListConnectorsRequest())
    async with engine_server(engine, **options) as server:
        async with open_channel(server.address) as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)
            assert (await health.Check(health_pb2.HealthCheckRequest())).status == SERVING
        for token in (None, "wrong"):
            async with open_channel(server.address, token=token) as channel:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await EngineServiceStub(channel).ListConnectors(ListConnectorsRequest())
                assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert engine.requests == 1


@pytest.mark.parametrize("method", ["/none.Such/Method", b"/none.Such/\xcb", b"/\xff", b"/\xc3/"])
async def test_a_call_to_an_unknown_method_is_refused_and_the_server_continues(method: Any) -> None:
    async with engine_server(scripted_engine()) as server, open_channel(server.address) as channel:
        call: Any = channel.unary_unary(method)
        for _ in range(3):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(b"", timeout=10)
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        await EngineServiceStub(channel).ListConnectors(ListConnectorsRequest())


async def test_a_drain_ends_even_if_grpc_never_stops(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class NeverStops:
        async def stop(self, grace: float | None) -> None:
            await asyncio.Event().wait()

    monkeypatch.setattr("pipesync_server.server._TIDY_UP_TIMEOUT", 0.1)
    server = engine_server(scripted_engine(), grace=0.1)
    await server.start()
    stopped = server._server
    assert stopped is not None
    monkeypatch.setattr(server, "_server", NeverStops())
    async with asyncio.timeout(10):
        await server.drain()
    await stopped.stop(None)


@pytest.mark.parametrize(
    "listen",
    ["127.0.0.1:99999", "127.0.0.1:-1", "127.0.0.1:", "localhost:1x", "unix:"],
)
async def test_an_invalid_address_is_refused(listen: str) -> None:
    with pytest.raises(CannotListen, match="give host:port or unix:/path"):
        async with engine_server(scripted_engine(), listen=listen):
            pass
