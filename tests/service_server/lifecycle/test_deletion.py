"""Deleting and tearing down pipelines that run by themselves."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from pipesync.v1 import engine_service_pb2 as engine_pb
from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync.v1.message_pb2 import Message
from pipesync.v1.state_pb2 import Eof
from pipesync_client import PipelineClient
from pipesync_rpc.errors import RpcError
from service_server.store import pipelines
from service_server.store.database import Database
from tests.service_server.lifecycle.scripts import Batches, Request, create, cut, set_desired
from tests.service_server.scripted_engine import DROPPED, ScriptedEngine
from tests.service_server.syncing import stored_state, sync_batch
from tests.service_server.watching import has_status, shown

DELETE = pb.DeletePipelineRequest(id="first")


async def test_a_running_pipeline_is_deleted_between_two_steps(
    client: PipelineClient, engine: ScriptedEngine, database: Database
) -> None:
    under_way = False
    torn_down_meanwhile: list[bool] = []

    async def batch(request: Request) -> Eof:
        nonlocal under_way
        under_way = True
        await asyncio.sleep(0.2)
        under_way = False
        return cut(request)

    async def teardown() -> AsyncGenerator[Message, None]:
        torn_down_meanwhile.append(under_way)
        yield DROPPED

    engine.batch, engine.teardown = batch, teardown
    await create(client)
    await shown(client, lambda one: one.progress.derived.total_record_count > 0)
    assert list((await client.delete_pipeline(DELETE)).messages) == [DROPPED]
    assert torn_down_meanwhile == [False]
    with pytest.raises(RpcError) as error:
        await client.get_pipeline(pb.GetPipelineRequest(id="first"))
    assert error.value.reason == "PIPELINE_NOT_FOUND"
    async with database.connection() as connection:
        assert not await connection.fetchval("SELECT count(*) FROM pipesync.lifecycles")


async def test_a_pipeline_that_cannot_be_torn_down_goes_on_as_before_unless_that_is_skipped(
    client: PipelineClient, engine: ScriptedEngine, database: Database
) -> None:
    engine.batch = batches = Batches([cut])
    await create(client)
    await batches.until(lambda asked: len(asked.runs) >= 2)
    engine.failing_check = "no route to host"
    with pytest.raises(RpcError, match="no route to host; nothing was removed"):
        await client.delete_pipeline(DELETE)
    assert await stored_state(database) is not None
    before = len(batches.runs)
    await batches.until(lambda asked: len(asked.runs) > before + 1)
    await shown(client, has_status(pb.PIPELINE_STATUS_BACKFILL))
    await client.delete_pipeline(pb.DeletePipelineRequest(id="first", skip_teardown=True))
    assert not (await client.list_pipelines(pb.ListPipelinesRequest())).pipelines


async def test_a_pipeline_whose_deletion_was_cut_off_rests_until_somebody_decides(
    client: PipelineClient, engine: ScriptedEngine, database: Database
) -> None:
    engine.batch = batches = Batches([cut])
    await create(client)
    await batches.until(lambda asked: len(asked.runs) >= 2)
    async with database.connection() as connection:
        await pipelines.set_desired_status(
            connection, "first", pb.DESIRED_STATUS_ACTIVE, pb.DESIRED_STATUS_DELETED
        )
    await shown(client, has_status(pb.PIPELINE_STATUS_TEARDOWN))
    with pytest.raises(RpcError) as error:
        await sync_batch(client)
    assert error.value.reason == "PIPELINE_BEING_DELETED"
    await set_desired(client, pb.DESIRED_STATUS_ACTIVE)
    before = len(batches.runs)
    await batches.until(lambda asked: len(asked.runs) > before)
    await client.delete_pipeline(DELETE)


async def test_only_a_paused_pipeline_is_torn_down_and_it_is_set_up_anew_when_it_is_resumed(
    client: PipelineClient, engine: ScriptedEngine, database: Database
) -> None:
    engine.batch = batches = Batches([cut])
    await create(client)
    await batches.until(lambda asked: len(asked.runs) >= 2)
    request = pb.TeardownPipelineRequest(id="first")
    with pytest.raises(RpcError) as error:
        [_ async for _ in client.teardown_pipeline(request)]
    assert error.value.reason == "PIPELINE_ACTIVE"
    await set_desired(client, pb.DESIRED_STATUS_PAUSED)
    assert [answer.message async for answer in client.teardown_pipeline(request)] == [DROPPED]
    assert await stored_state(database) is None
    setups = len(
        [one for one in engine.requests if isinstance(one, engine_pb.PipelineSetupRequest)]
    )
    before = len(batches.runs)
    await set_desired(client, pb.DESIRED_STATUS_ACTIVE)
    await batches.until(lambda asked: len(asked.runs) > before)
    again = [one for one in engine.requests if isinstance(one, engine_pb.PipelineSetupRequest)]
    assert len(again) == setups + 1
    assert not batches.runs[before].options.HasField("state")
