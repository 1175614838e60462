"""Deletion and teardown of continuous pipelines."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from pipesync.v1 import engine_service_pb2 as engine_pb
from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync.v1.message_pb2 import Control, Message
from pipesync.v1.state_pb2 import Eof
from pipesync_client import PipelineClient
from pipesync_rpc.errors import RpcError
from service_server.store import pipelines
from service_server.store.database import Database
from tests.service_server.conftest import connector
from tests.service_server.lifecycle.scripts import (
    Batches,
    Request,
    create,
    cut,
    set_desired,
    succeeded,
    update,
)
from tests.service_server.scripted_engine import DROPPED, ScriptedEngine
from tests.service_server.syncing import stored_state, sync_batch
from tests.service_server.watching import has_status, shown

DELETE = pb.DeletePipelineRequest(pipeline_id="first")


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
        await client.get_pipeline(pb.GetPipelineRequest(pipeline_id="first"))
    assert error.value.reason == "PIPELINE_NOT_FOUND"
    async with database.connection() as connection:
        assert not await connection.fetchval("SELECT count(*) FROM pipesync.lifecycles")


async def test_a_pipeline_whose_teardown_fails_continues_until_the_teardown_is_skipped(
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
    await client.delete_pipeline(pb.DeletePipelineRequest(pipeline_id="first", skip_teardown=True))
    assert not (await client.list_pipelines(pb.ListPipelinesRequest())).pipelines


async def test_a_pipeline_whose_deletion_was_cut_off_waits_for_the_user(
    client: PipelineClient, engine: ScriptedEngine, database: Database
) -> None:
    engine.batch = batches = Batches([cut])
    await create(client)
    await batches.until(lambda asked: len(asked.runs) >= 2)
    async with database.connection() as connection:
        await pipelines.mark_deleted(connection, "first")
    await shown(client, has_status(pb.PIPELINE_STATUS_TEARDOWN))
    with pytest.raises(RpcError) as error:
        await sync_batch(client)
    assert error.value.reason == "PIPELINE_BEING_DELETED"
    await set_desired(client, pb.DESIRED_STATUS_ACTIVE)
    before = len(batches.runs)
    await batches.until(lambda asked: len(asked.runs) > before)
    await client.delete_pipeline(DELETE)


async def test_only_a_paused_pipeline_is_torn_down_and_its_resumption_sets_it_up_again(
    client: PipelineClient, engine: ScriptedEngine, database: Database
) -> None:
    engine.batch = batches = Batches([cut])
    await create(client)
    await batches.until(lambda asked: len(asked.runs) >= 2)
    request = pb.TeardownPipelineRequest(pipeline_id="first")
    with pytest.raises(RpcError) as error:
        [_ async for _ in client.teardown_pipeline(request)]
    assert error.value.reason == "PIPELINE_ACTIVE"
    plan = pb.TeardownPipelineRequest(pipeline_id="first", validate_only=True)
    with pytest.raises(RpcError) as error:
        [_ async for _ in client.teardown_pipeline(plan)]
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


async def test_a_pipeline_that_is_resumed_while_its_deletion_waits_continues(
    client: PipelineClient, engine: ScriptedEngine
) -> None:
    entered, proceed = asyncio.Event(), asyncio.Event()
    batches = Batches([cut])

    async def batch(request: Request) -> Eof:
        entered.set()
        await proceed.wait()
        return await batches(request)

    engine.batch = batch
    await create(client)
    async with asyncio.timeout(20):
        await entered.wait()
    deletion = asyncio.ensure_future(client.delete_pipeline(DELETE))
    await shown(client, lambda one: one.desired_status == pb.DESIRED_STATUS_DELETED)
    await set_desired(client, pb.DESIRED_STATUS_ACTIVE)
    proceed.set()
    with pytest.raises(RpcError, match="was changed meanwhile: nothing was removed") as error:
        await deletion
    assert error.value.reason == "PIPELINE_CHANGED"
    assert not any(isinstance(one, engine_pb.PipelineTeardownRequest) for one in engine.requests)
    await batches.until(lambda asked: len(asked.runs) >= 2)
    await shown(client, has_status(pb.PIPELINE_STATUS_BACKFILL))


async def test_an_update_during_a_setup_is_set_up_too(
    client: PipelineClient, engine: ScriptedEngine
) -> None:
    entered, proceed = asyncio.Event(), asyncio.Event()

    async def setup() -> AsyncGenerator[Message, None]:
        entered.set()
        await proceed.wait()
        filled_in = connector(webhook_secret="whsec_made").config
        if len(setups(engine)) == 1:
            yield Message(control=Control(source_config=filled_in))

    engine.setup = setup
    engine.batch = batches = Batches([succeeded])
    made = await create(client)
    async with asyncio.timeout(20):
        await entered.wait()
    made.config.source.CopyFrom(connector(rate=5))
    await update(client, made, "config.source")
    proceed.set()
    await shown(client, has_status(pb.PIPELINE_STATUS_READY))
    assert len(setups(engine)) == 2
    source = connector(rate=5, webhook_secret="whsec_made")
    assert setups(engine)[-1].pipeline.source == source
    assert batches.asked[-1].pipeline.source == source


async def test_a_pipeline_whose_key_changes_during_a_setup_is_set_up_with_the_new_one(
    client: PipelineClient, engine: ScriptedEngine
) -> None:
    entered, proceed = asyncio.Event(), asyncio.Event()

    async def setup() -> AsyncGenerator[Message, None]:
        entered.set()
        await proceed.wait()
        config = setups(engine)[-1].pipeline.source.config
        config["webhook_secret"] = f"whsec_{len(setups(engine))}"
        yield Message(control=Control(source_config=config))

    engine.setup = setup
    engine.batch = batches = Batches([succeeded])
    made = await create(client)
    async with asyncio.timeout(20):
        await entered.wait()
    made.config.source.CopyFrom(connector(api_key="sk_test_other"))
    await update(client, made, "config.source")
    proceed.set()
    await shown(client, has_status(pb.PIPELINE_STATUS_READY))
    removed, kept = (
        connector(webhook_secret="whsec_1"),
        connector(api_key="sk_test_other", webhook_secret="whsec_2"),
    )
    teardown = engine.last(engine_pb.PipelineTeardownRequest)
    assert teardown.pipeline.source == removed
    assert batches.asked[-1].pipeline.source == kept


def setups(engine: ScriptedEngine) -> list[engine_pb.PipelineSetupRequest]:
    return [one for one in engine.requests if isinstance(one, engine_pb.PipelineSetupRequest)]
