"""Tests that calls that one caller holds open leave room for others, in a whole service."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from typing import Any

import aiohttp
import grpc.aio
import pytest
from google.rpc import code_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pydantic import ValidationError

from engine_server.budgets import BUDGETS as ENGINE_BUDGETS
from engine_server.settings import EngineSettings
from pipesync.v1 import engine_service_pb2, pipeline_service_pb2
from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync.v1.message_pb2 import Message
from pipesync.v1.state_pb2 import Eof, SyncRun
from pipesync_client import PipelineClient
from pipesync_rpc.channel import DIRECT
from pipesync_rpc.errors import RpcError
from pipesync_server.access import Scope
from pipesync_server.budgets import Bound, Budget, TooManyCalls
from pipesync_server.tokens import hash_token
from service_server.bootstrap import RunningService, running_service
from service_server.budgets import BUDGETS
from service_server.security.token_commands import create_token
from service_server.settings.service import ServiceSettings
from service_server.store.database import Database
from tests.service_server.conftest import pipeline
from tests.service_server.scripted_engine import ScriptedEngine
from tests.service_server.syncing import sync_batch, then_waits

FIRST = "first"
SERVING = health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize(
    ("budgets", "descriptor"),
    [
        (BUDGETS, pipeline_service_pb2.DESCRIPTOR.services_by_name["PipelineService"]),
        (ENGINE_BUDGETS, engine_service_pb2.DESCRIPTOR.services_by_name["EngineService"]),
    ],
)
def test_the_tables_have_every_rpc(budgets: dict[str, Budget], descriptor: Any) -> None:
    assert budgets.keys() == {f"/{descriptor.full_name}/{one.name}" for one in descriptor.methods}


def test_the_share_of_one_caller_suffices_for_a_large_deployment() -> None:
    plan = ServiceSettings(listen="127.0.0.1:0").budget_plan
    most = {budget: size * plan.caller_share for budget, size in plan.sizes.items()}
    assert most == {
        Budget.WATCHES: 600,
        Budget.SYNCS: 375,
        Budget.CALLS: 525,
        Budget.HEALTH: 750,
    }
    # One service forwards all its syncs, including those of continuous pipelines.
    engine = EngineSettings().budget_plan
    assert engine.sizes[Budget.SYNCS] * engine.caller_share >= plan.sizes[Budget.SYNCS] + 50


def test_budgets_that_leave_no_other_calls_are_refused() -> None:
    with pytest.raises(ValidationError, match="leave none of 100 for other calls"):
        ServiceSettings(max_concurrent_calls=100, max_watches=80)
    with pytest.raises(ValidationError, match="leave none of 100 for other calls"):
        EngineSettings(max_concurrent_calls=100, max_syncs=100)


@pytest.fixture
async def two_teams(
    settings: ServiceSettings, database: Database
) -> AsyncIterator[tuple[RunningService, PipelineClient, PipelineClient]]:
    """Yield a service with four concurrent watches and syncs, and a client of each team."""
    tokens = [
        await create_token(database, name=name, scope=Scope.ADMIN, prefix="", days=None)
        for name in ("a", "b")
    ]
    few = {
        "max_watches": 4,
        "max_syncs": 4,
        "max_health_calls": 100,
        "token_hashes": (hash_token(FIRST),),
    }
    async with (
        running_service(settings.model_copy(update=few)) as service,
        PipelineClient(service.address, token=tokens[0]) as one,
        PipelineClient(service.address, token=tokens[1]) as other,
    ):
        await one.create_pipeline(pb.CreatePipelineRequest(pipeline=pipeline()))
        yield service, one, other


async def test_idle_watches_of_one_token_leave_room_for_another(
    two_teams: tuple[RunningService, PipelineClient, PipelineClient],
) -> None:
    _, one, other = two_teams
    request = pb.WatchPipelineRequest(pipeline_id="first")
    async with AsyncExitStack() as open_watches:
        for _ in range(3):
            watch = await open_watches.enter_async_context(aclosing(one.watch_pipeline(request)))
            await anext(watch)
        # The stub is used because the client would retry.
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _first(one._connection.stub.WatchPipeline(request))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await one.get_pipeline(pb.GetPipelineRequest(pipeline_id="first"))
        async with aclosing(other.watch_pipeline(request)) as watch:
            await anext(watch)
    # The client retries after the delay in the error, when the calls have ended.
    async with aclosing(one.watch_pipeline(request)) as watch:
        await anext(watch)


async def test_syncs_of_one_token_leave_room_for_other_calls_and_for_another_token(
    two_teams: tuple[RunningService, PipelineClient, PipelineClient], engine: ScriptedEngine
) -> None:
    service, one, other = two_teams
    ids = [f"more_{number}" for number in range(5)]
    for pipeline_id in ids:
        await one.create_pipeline(pb.CreatePipelineRequest(pipeline=pipeline(pipeline_id)))
    engine.sync, _ = then_waits(Message(sync_run=SyncRun(run_id="run")))

    async with AsyncExitStack() as open_syncs:

        async def sync(client: PipelineClient, pipeline_id: str) -> None:
            request = pb.SyncPipelineRequest(pipeline_id=pipeline_id, run_id="run")
            answers = await open_syncs.enter_async_context(aclosing(client.sync_pipeline(request)))
            await anext(answers)

        for pipeline_id in ids[:3]:
            await sync(one, pipeline_id)
        with pytest.raises(RpcError) as caught:
            await sync(one, ids[3])
        assert (caught.value.code, caught.value.reason) == (
            code_pb2.RESOURCE_EXHAUSTED,
            "TOO_MANY_CALLS",
        )
        assert caught.value.retry_delay is not None
        assert caught.value.request_id
        # A pipeline can be read and paused.
        paused = pipeline(ids[0])
        paused.desired_status = pb.DESIRED_STATUS_PAUSED
        update = pb.UpdatePipelineRequest(pipeline=paused)
        update.update_mask.paths.append("desired_status")
        await one.update_pipeline(update)
        await sync(other, ids[4])
        assert await metric(service, 'pipesync_rpc_budget_open{budget="syncs"}') == 4
        refused = 'pipesync_rpc_refused_calls_total{bound="caller",budget="syncs"}'
        assert await metric(service, refused) == 1
    assert await metric(service, 'pipesync_rpc_budget_size{budget="syncs"}') == 4


async def test_an_engine_at_its_limit_of_calls_is_unavailable(
    client: PipelineClient, created: pb.Pipeline, engine: ScriptedEngine
) -> None:
    async def refuses(_: object) -> Eof:
        raise TooManyCalls(Budget.SYNCS, Bound.CALLER, 3, 0)

    engine.batch = refuses
    with pytest.raises(RpcError) as caught:
        await sync_batch(client)
    # The caller cannot end the calls that the service has open.
    assert (caught.value.code, caught.value.reason) == (code_pb2.UNAVAILABLE, "ENGINE_UNAVAILABLE")
    assert "has as many calls open as it takes" in caught.value.message


async def test_health_watches_without_a_token_leave_room_for_other_calls(
    two_teams: tuple[RunningService, PipelineClient, PipelineClient],
) -> None:
    service, one, _ = two_teams
    async with grpc.aio.insecure_channel(service.address, options=[DIRECT]) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        watches = [health.Watch(health_pb2.HealthCheckRequest()) for _ in range(1000)]
        firsts = await asyncio.gather(*map(_first, watches), return_exceptions=True)
        refused = [first for first in firsts if isinstance(first, grpc.aio.AioRpcError)]
        assert len(refused) == 925
        assert {error.code() for error in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert (await health.Check(health_pb2.HealthCheckRequest())).status == SERVING
        await one.get_pipeline(pb.GetPipelineRequest(pipeline_id="first"))
        async with aclosing(
            one.watch_pipeline(pb.WatchPipelineRequest(pipeline_id="first"))
        ) as watch:
            await anext(watch)
        assert await metric(service, 'pipesync_rpc_budget_open{budget="health"}') == 75


async def metric(service: RunningService, name: str) -> float:
    headers = {"Authorization": f"Bearer {FIRST}"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.get(f"{service.http_address}/metrics") as response,
    ):
        lines = (await response.text()).splitlines()
    [value] = [line.rpartition(" ")[2] for line in lines if line.startswith(f"{name} ")]
    return float(value)


async def _first(call: Any) -> Any:
    return await anext(aiter(call))
