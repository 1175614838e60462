"""Tests for simulated webhooks."""

import asyncio
import time
from collections.abc import AsyncGenerator

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import code_pb2

from pipesync.v1 import engine_service_pb2 as engine_pb
from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync.v1.message_pb2 import Log, Message
from pipesync.v1.progress_pb2 import RUN_STATUS_SUCCEEDED
from pipesync.v1.state_pb2 import Eof
from pipesync_client import PipelineClient
from pipesync_rpc.errors import RpcError
from service_server.store import pipelines, states
from service_server.store.database import Database
from tests.service_server.conftest import SECRET
from tests.service_server.scripted_engine import ScriptedEngine
from tests.service_server.syncing import runs, state, stored_state, then_waits, until_free

DAY = 24 * 60 * 60


async def simulate(client: PipelineClient, **fields: object) -> list[Message]:
    request = pb.SimulateWebhookSyncRequest(**{"pipeline_id": "first", **fields})  # type: ignore[arg-type]  # any field
    return [answer.message async for answer in client.simulate_webhook_sync(request)]


async def test_the_events_of_the_last_day_are_requested_by_default(
    client: PipelineClient, created: pb.Pipeline, engine: ScriptedEngine
) -> None:
    [message] = await simulate(client)
    assert message.eof.status == RUN_STATUS_SUCCEEDED
    [given] = engine.last(engine_pb.PipelineSyncRequest).inputs
    assert abs(given.recent_events.created_after.seconds - (time.time() - DAY)) < 60
    assert given.recent_events.limit == 0


async def test_a_time_and_a_limit_are_sent_to_the_engine(
    client: PipelineClient, created: pb.Pipeline, engine: ScriptedEngine
) -> None:
    await simulate(client, created_after=Timestamp(seconds=1_700_000_000), limit=7)
    [given] = engine.last(engine_pb.PipelineSyncRequest).inputs
    assert (given.recent_events.created_after.seconds, given.recent_events.limit) == (
        1_700_000_000,
        7,
    )


async def test_every_message_is_yielded_without_secrets(
    client: PipelineClient, created: pb.Pipeline, engine: ScriptedEngine
) -> None:
    async def script(_: object) -> AsyncGenerator[Message, None]:
        yield Message(emitted_by="source/scripted", log=Log(message="three events"))
        control = Message()
        control.control.source_config.update({"api_key": SECRET})
        yield control
        yield Message(eof=Eof(status=RUN_STATUS_SUCCEEDED))

    engine.sync = script
    messages = await simulate(client)
    assert [message.WhichOneof("payload") for message in messages] == ["log", "control", "eof"]
    assert SECRET not in str(messages)


async def test_the_state_is_sent_and_neither_it_nor_the_runs_change(
    client: PipelineClient, created: pb.Pipeline, engine: ScriptedEngine, database: Database
) -> None:
    async with database.connection() as connection:
        await states.put(connection, "first", state("before"))

    async def script(_: object) -> AsyncGenerator[Message, None]:
        yield Message(eof=Eof(status=RUN_STATUS_SUCCEEDED, ending_state=state("after")))

    engine.sync = script
    await simulate(client)
    assert engine.last(engine_pb.PipelineSyncRequest).options.state == state("before")
    assert await stored_state(database) == state("before")
    assert await runs(client) == []


async def test_a_simulation_excludes_syncs(
    client: PipelineClient, created: pb.Pipeline, engine: ScriptedEngine, database: Database
) -> None:
    script, ended = then_waits(Message(log=Log(message="begun")))
    engine.sync = script
    answers = client.simulate_webhook_sync(pb.SimulateWebhookSyncRequest(pipeline_id="first"))
    await anext(answers)
    with pytest.raises(RpcError) as error:
        await client.sync_pipeline_batch(pb.SyncPipelineBatchRequest(pipeline_id="first"))
    assert error.value.reason == "SYNC_IN_PROGRESS"
    await answers.aclose()
    await asyncio.wait_for(ended.wait(), 5)
    await until_free(database)


async def test_a_paused_pipeline_simulates_nothing(
    client: PipelineClient, created: pb.Pipeline, engine: ScriptedEngine
) -> None:
    paused = pb.Pipeline(id="first", desired_status=pb.DESIRED_STATUS_PAUSED)
    request = pb.UpdatePipelineRequest(pipeline=paused)
    request.update_mask.paths.append("desired_status")
    await client.update_pipeline(request)
    with pytest.raises(RpcError) as error:
        await simulate(client)
    assert error.value.reason == "PIPELINE_PAUSED"


async def test_a_pipeline_that_is_being_deleted_simulates_nothing(
    client: PipelineClient, created: pb.Pipeline, engine: ScriptedEngine, database: Database
) -> None:
    async with database.connection() as connection:
        await pipelines.mark_deleted(connection, "first")
    with pytest.raises(RpcError) as error:
        await simulate(client)
    assert error.value.reason == "PIPELINE_BEING_DELETED"
    assert not any(isinstance(one, engine_pb.PipelineSyncRequest) for one in engine.requests)


@pytest.mark.parametrize(
    ("fields", "field"), [({"pipeline_id": ""}, "pipeline_id"), ({"limit": -1}, "limit")]
)
async def test_an_invalid_field_is_named(
    client: PipelineClient, fields: dict[str, object], field: str
) -> None:
    with pytest.raises(RpcError) as error:
        await simulate(client, **fields)
    assert error.value.code == code_pb2.INVALID_ARGUMENT
    assert [violation.field for violation in error.value.field_violations] == [field]


async def test_a_missing_pipeline_is_not_found(client: PipelineClient) -> None:
    with pytest.raises(RpcError) as error:
        await simulate(client)
    assert error.value.reason == "PIPELINE_NOT_FOUND"
