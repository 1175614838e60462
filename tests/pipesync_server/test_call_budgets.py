"""Budgets of a running server: refusals, retries, and the end of calls."""

# Call types are generic in their stubs only.
from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import grpc
import pytest
import structlog
from google.rpc import code_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from structlog.testing import LogCapture

from pipesync.v1.engine_service_pb2 import ListConnectorsRequest, PipelineSyncRequest
from pipesync.v1.engine_service_pb2_grpc import EngineServiceStub
from pipesync_rpc.channel import DIRECT, open_channel
from pipesync_rpc.errors import RpcError
from pipesync_rpc.status import from_grpc
from pipesync_server.access import Principal, Scope
from pipesync_server.budgets import (
    Bound,
    Budget,
    BudgetPlan,
    Budgets,
)
from pipesync_server.peer import UNKNOWN_PEER, Peer
from pipesync_server.tokens import hash_token, shown_token
from tests.pipesync_server.observed_budgets import ObservedBudgets, caller, reserve_all
from tests.pipesync_server.scripted_engine import ScriptedEngine, engine_server, scripted_engine
from tests.pipesync_server.test_messages import (
    ANSWERS_MANY,
    TAKES_MANY,
    UNARY,
    bytes_call,
    failure,
    finish,
)

# Gives a channel a connection of its own.
OWN = ("grpc.use_local_subchannel_pool", 1)
SERVING = health_pb2.HealthCheckResponse.SERVING


class EveryName:
    """Admits every caller under the name in its token."""

    def admit(self, authorization: str, peer: Peer = UNKNOWN_PEER) -> Principal:
        """Return a caller of this name."""
        return Principal(name=shown_token(authorization), scope=Scope.ADMIN)


@asynccontextmanager
async def stub_of(server: Any, name: str) -> AsyncIterator[Any]:
    async with open_channel(server.address, token=name) as channel:
        yield EngineServiceStub(channel)


async def synced(stub: Any) -> Any:
    """Return a sync that has begun and continues."""
    call = stub.PipelineSync(PipelineSyncRequest())
    await anext(aiter(call))
    return call


async def ended(calls: list[Any], engine: ScriptedEngine) -> None:
    engine.released.set()
    for call in calls:
        async for _ in call:
            pass


@pytest.fixture
def events() -> Iterator[list[Any]]:
    capture = LogCapture()
    structlog.configure(processors=[capture])
    yield capture.entries
    structlog.reset_defaults()


async def test_a_refusal_names_the_budget_and_the_retry_delay() -> None:
    engine = scripted_engine()
    budgets = ObservedBudgets()
    async with (
        engine_server(engine, budgets=budgets, authenticator=EveryName()) as server,
        stub_of(server, "one") as stub,
    ):
        calls = [await synced(stub) for _ in range(3)]
        # The refusal arrives before the request is sent.
        async with open_channel(server.address, token="one") as channel:
            call: Any = channel.stream_stream(ANSWERS_MANY)()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
        error = from_grpc(caught.value)
        assert (error.code, error.reason) == (code_pb2.RESOURCE_EXHAUSTED, "TOO_MANY_CALLS")
        assert error.metadata == {"budget": "syncs", "bound": "caller"}
        assert error.message.startswith("the caller has 3 calls of the kind 'syncs' open")
        assert error.retry_delay is not None
        assert error.retry_delay.total_seconds() >= 0.75
        assert error.request_id
        # Other kinds of call, and other callers, keep their shares.
        await stub.ListConnectors(ListConnectorsRequest())
        async with stub_of(server, "two") as other:
            calls.append(await synced(other))
            assert budgets.refusals == {(Budget.SYNCS, Bound.CALLER): 1}
            await ended(calls, engine)
        assert budgets.open_calls(Budget.SYNCS) == 0
        await ended([await synced(stub)], engine)


async def test_health_watches_exclude_no_other_caller_and_checks_are_always_answered() -> None:
    engine = scripted_engine()
    budgets = ObservedBudgets()
    async with (
        engine_server(
            engine,
            budgets=budgets,
            authenticator=EveryName(),
            trusted_proxies=["127.0.0.1"],
        ) as server,
        grpc.aio.insecure_channel(server.address, options=[DIRECT]) as channel,
        stub_of(server, "one") as stub,
    ):
        health: Any = health_pb2_grpc.HealthStub(channel)

        async def watch(address: str) -> Any:
            call = health.Watch(
                health_pb2.HealthCheckRequest(), metadata=[("x-forwarded-for", address)]
            )
            try:
                assert (await anext(aiter(call))).status == SERVING
            except grpc.aio.AioRpcError as error:
                return from_grpc(error)
            return call

        watches = await asyncio.gather(*(watch("10.0.0.1") for _ in range(1000)))
        refused = [one for one in watches if isinstance(one, RpcError)]
        assert len(refused) == 925
        assert {error.reason for error in refused} == {"TOO_MANY_CALLS"}
        assert all(error.retry_delay and error.request_id for error in refused)
        assert (await health.Check(health_pb2.HealthCheckRequest())).status == SERVING
        await stub.ListConnectors(ListConnectorsRequest())
        elsewhere = await watch("10.0.0.2")
        assert not isinstance(elsewhere, RpcError)
        budgets.given_back.clear()
        for call in (elsewhere, *watches):
            if not isinstance(call, RpcError):
                call.cancel()
        await budgets.given_back.wait()
        again = await watch("10.0.0.1")
        assert not isinstance(again, RpcError)
        again.cancel()


@pytest.mark.parametrize("method", [UNARY, ANSWERS_MANY, TAKES_MANY])
async def test_a_call_whose_request_never_arrives_ends(method: str) -> None:
    budgets = ObservedBudgets()
    engine = scripted_engine()
    async with (
        engine_server(
            engine, budgets=budgets, authenticator=EveryName(), request_seconds=0.1
        ) as server,
        open_channel(server.address, token="one") as channel,
    ):
        call: Any = channel.stream_stream(method)()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        error = from_grpc(caught.value)
        assert (error.code, error.reason) == (code_pb2.DEADLINE_EXCEEDED, "REQUEST_NOT_RECEIVED")
        assert error.request_id
        assert engine.requests == (1 if method == TAKES_MANY else 0)
        assert sum(budgets.refusals.values()) == 1
        await EngineServiceStub(channel).ListConnectors(ListConnectorsRequest())


async def test_the_default_client_retries_after_the_servers_delay() -> None:
    budgets = ObservedBudgets()
    engine = scripted_engine()
    async with (
        engine_server(engine, budgets=budgets) as server,
        open_channel(server.address, idempotent_methods=[UNARY]) as channel,
    ):
        taken = [budgets.reserve(UNARY, caller("another")) for _ in range(6)]
        taken += [budgets.reserve(UNARY, caller("one more"))]
        taken += [budgets.reserve(UNARY, caller("and one"))]
        call = EngineServiceStub(channel).ListConnectors(ListConnectorsRequest())
        waiting = asyncio.ensure_future(finished(call))
        await budgets.refused.wait()
        for reservation in taken:
            reservation.close()
        await waiting
        assert engine.metadata["grpc-previous-rpc-attempts"] == "1"
        assert budgets.refusals == {(Budget.CALLS, Bound.TOTAL): 1}


async def finished(call: Any) -> None:
    await call


@pytest.mark.parametrize("retry_seconds", [None, 60])
async def test_the_default_client_does_not_wait_for_long(
    retry_seconds: int | None,
) -> None:
    delay = None if retry_seconds is None else timedelta(seconds=retry_seconds)
    engine = scripted_engine(
        RpcError("no", code=code_pb2.RESOURCE_EXHAUSTED, reason="FULL", retry_delay=delay)
    )
    async with (
        engine_server(engine) as server,
        open_channel(server.address, idempotent_methods=[UNARY]) as channel,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await EngineServiceStub(channel).ListConnectors(ListConnectorsRequest())
    assert from_grpc(caught.value).retry_delay == delay
    assert engine.requests == 1


async def test_repeated_refusals_are_logged_once(events: list[Any]) -> None:
    budgets = ObservedBudgets()
    async with (
        engine_server(scripted_engine(), budgets=budgets, authenticator=EveryName()) as server,
        stub_of(server, "one") as stub,
    ):
        taken = reserve_all(budgets, "one")
        for _ in range(50):
            with pytest.raises(grpc.aio.AioRpcError):
                await stub.ListConnectors(ListConnectorsRequest())
        for reservation in taken:
            reservation.close()
    assert budgets.refusals == {(Budget.CALLS, Bound.CALLER): 51}
    loud = [event for event in events if event["log_level"] != "debug"]
    assert [event["event"] for event in loud] == [
        "listening",
        "calls_refused",
        "draining",
        "stopped",
    ]
    [refused] = [event for event in events if event["event"] == "calls_refused"]
    assert (refused["budget"], refused["bound"], refused["caller"]) == ("calls", "caller", "one")


async def test_none_of_many_simultaneous_calls_is_cancelled() -> None:
    server = engine_server(scripted_engine(), token_hashes=[hash_token("known")])
    async with server, grpc.aio.insecure_channel(server.address, options=(OWN,)) as channel:
        stub = EngineServiceStub(channel)
        # The server handles none before all of them are made.
        calls = [stub.ListConnectors(ListConnectorsRequest()) for _ in range(4000)]
        codes = Counter([await call.code() for call in calls])
    assert set(codes) == {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.RESOURCE_EXHAUSTED}


async def test_a_call_counts_until_its_caller_has_the_response() -> None:
    budgets = ObservedBudgets()
    async with (
        engine_server(scripted_engine(), budgets=budgets) as server,
        open_channel(server.address) as channel,
    ):
        await finish(bytes_call(channel, UNARY, b""))
        await failure(bytes_call(channel, UNARY))
    # After its shutdown the server has seen the end of all calls.
    assert not budgets._ending
    assert budgets.open_calls(Budget.CALLS) == 0


async def test_the_bytes_of_a_request_count_until_its_call_has_ended() -> None:
    plan = BudgetPlan(
        sizes={Budget.CALLS: 100, Budget.HEALTH: 1}, total=100, request_bytes=2_000_000
    )
    budgets = Budgets(plan, {})
    engine = scripted_engine()
    # A field that the contract lacks.
    large = bytes((0x7A, 0xC0, 0x84, 0x3D)) + bytes(1_000_000)
    async with (
        engine_server(engine, budgets=budgets) as server,
        open_channel(server.address) as channel,
    ):
        # Regardless of whether the caller closes its stream of requests.
        call: Any = channel.stream_stream(ANSWERS_MANY)()
        await call.write(large)
        await engine.entered.wait()
        error = from_grpc(await failure(bytes_call(channel, UNARY, large)))
        engine.released.set()
        await finish(call)
        await finish(bytes_call(channel, UNARY, large))
    assert error.code == code_pb2.RESOURCE_EXHAUSTED
    assert error.metadata["bound"] == Bound.MEMORY
    assert budgets.request_bytes == 0
