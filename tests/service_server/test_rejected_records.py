"""Tests for the count and the retry of rejected records."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

import aiohttp
import pytest
from google.rpc import code_pb2

from pipesync.v1 import engine_service_pb2 as engine_pb
from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync.v1.message_pb2 import Message
from pipesync.v1.progress_pb2 import RUN_STATUS_FAILED, RUN_STATUS_STARTED, RUN_STATUS_SUCCEEDED
from pipesync.v1.state_pb2 import Eof
from pipesync_client import PipelineClient
from pipesync_rpc.errors import RpcError
from pipesync_rpc.reasons import Reason
from service_server.bootstrap import running_service
from service_server.settings.service import ServiceSettings
from service_server.store import pipelines
from service_server.store.database import Database
from tests.service_server.conftest import SECRET
from tests.service_server.lifecycle.scripts import create, set_desired
from tests.service_server.scripted_engine import ScriptedEngine
from tests.service_server.watching import shown

RETRY = pb.RetryRejectedRecordsRequest(pipeline_id="first")
Batch = Callable[[engine_pb.PipelineSyncBatchRequest], Awaitable[Eof]]


def _ends(held: int, **fields: object) -> Batch:
    """Return a sync at whose end the destination keeps ``held`` rejected records."""

    async def batch(request: engine_pb.PipelineSyncBatchRequest) -> Eof:
        eof = Eof(status=RUN_STATUS_SUCCEEDED, held_rejected_record_count=held)
        for name, value in fields.items():
            setattr(eof, name, value)
        eof.ending_state.CopyFrom(request.options.state)
        eof.ending_state.source.streams["customers"] = "{}"
        return eof

    return batch


async def _sync(client: PipelineClient) -> None:
    await client.sync_pipeline_batch(pb.SyncPipelineBatchRequest(pipeline_id="first"))


async def _get(client: PipelineClient) -> pb.Pipeline:
    return (await client.get_pipeline(pb.GetPipelineRequest(pipeline_id="first"))).pipeline


async def _held(database: Database) -> int:
    async with database.connection() as connection:
        count: int = await connection.fetchval(
            "SELECT held_rejected_record_count FROM pipesync.pipelines"
        )
    return count


async def test_a_retry_sends_the_configuration_and_returns_the_counts(
    client: PipelineClient, created: pb.Pipeline, engine: ScriptedEngine, database: Database
) -> None:
    engine.batch = _ends(3)
    await _sync(client)
    pipeline = await _get(client)
    assert pipeline.status == pb.PIPELINE_STATUS_READY
    assert pipeline.status_message.startswith("3 records are rejected by the destination")
    engine.retried = engine_pb.PipelineRetryRejectedResponse(
        retried_record_count=3, written_record_count=1, rejected_record_count=1
    )
    answer = await client.retry_rejected_records(RETRY)
    assert answer == pb.RetryRejectedRecordsResponse(
        retried_record_count=3, written_record_count=1, rejected_record_count=1
    )
    request = engine.last(engine_pb.PipelineRetryRejectedRequest)
    assert request.pipeline.source.config["api_key"] == SECRET
    assert (await _get(client)).status_message.startswith("1 record is rejected")
    engine.retried = engine_pb.PipelineRetryRejectedResponse(
        retried_record_count=1, written_record_count=1
    )
    await client.retry_rejected_records(RETRY)
    assert (await _get(client)).status_message == ""
    assert await _held(database) == 0


async def test_a_paused_pipeline_is_not_retried(
    client: PipelineClient, created: pb.Pipeline, engine: ScriptedEngine
) -> None:
    await set_desired(client, pb.DESIRED_STATUS_PAUSED)
    with pytest.raises(RpcError) as error:
        await client.retry_rejected_records(RETRY)
    assert (error.value.code, error.value.reason) == (
        code_pb2.FAILED_PRECONDITION,
        Reason.PIPELINE_PAUSED,
    )
    with pytest.raises(RpcError) as error:
        await client.retry_rejected_records(pb.RetryRejectedRecordsRequest(pipeline_id="other"))
    assert error.value.code == code_pb2.NOT_FOUND
    with pytest.raises(RpcError) as error:
        await client.retry_rejected_records(pb.RetryRejectedRecordsRequest())
    assert error.value.code == code_pb2.INVALID_ARGUMENT


async def test_a_pipeline_that_is_being_deleted_is_not_retried(
    client: PipelineClient, created: pb.Pipeline, database: Database
) -> None:
    async with database.connection() as connection:
        await pipelines.mark_deleted(connection, "first")
    with pytest.raises(RpcError) as error:
        await client.retry_rejected_records(RETRY)
    assert error.value.reason == Reason.PIPELINE_BEING_DELETED


async def test_nothing_is_retried_during_a_sync(
    client: PipelineClient, created: pb.Pipeline, engine: ScriptedEngine
) -> None:
    async def waits(_: object) -> AsyncGenerator[Message, None]:
        yield Message()
        await asyncio.Event().wait()

    engine.sync = waits
    answers = client.sync_pipeline(pb.SyncPipelineRequest(pipeline_id="first"))
    await anext(answers)
    with pytest.raises(RpcError) as error:
        await client.retry_rejected_records(RETRY)
    assert (error.value.code, error.value.reason) == (code_pb2.ABORTED, Reason.SYNC_IN_PROGRESS)
    await answers.aclose()


async def test_a_destination_that_keeps_no_rejected_records_is_reported(
    client: PipelineClient, created: pb.Pipeline, engine: ScriptedEngine
) -> None:
    engine.error = RpcError(
        "the destination 'scripted' keeps no rejected records",
        code=code_pb2.FAILED_PRECONDITION,
        reason=Reason.REJECTED_NOT_KEPT,
    )
    with pytest.raises(RpcError) as error:
        await client.retry_rejected_records(RETRY)
    assert error.value.code == code_pb2.FAILED_PRECONDITION
    assert error.value.reason == Reason.REJECTED_NOT_KEPT


@pytest.mark.parametrize(
    ("fields", "held"),
    [
        ({}, 1),
        ({"has_more": True, "status": RUN_STATUS_STARTED}, 3),
        ({"status": RUN_STATUS_FAILED}, 3),
    ],
    ids=["succeeded", "cut", "failed"],
)
async def test_a_failed_sync_does_not_lower_the_count(
    client: PipelineClient,
    created: pb.Pipeline,
    engine: ScriptedEngine,
    database: Database,
    fields: dict[str, object],
    held: int,
) -> None:
    engine.batch = _ends(3)
    await _sync(client)
    assert await _held(database) == 3
    engine.batch = _ends(1, **fields)
    await _sync(client)
    assert await _held(database) == held


async def test_a_teardown_resets_the_count(
    client: PipelineClient, created: pb.Pipeline, engine: ScriptedEngine, database: Database
) -> None:
    engine.batch = _ends(3)
    await _sync(client)
    [_ async for _ in client.teardown_pipeline(pb.TeardownPipelineRequest(pipeline_id="first"))]
    assert await _held(database) == 0


async def test_a_retry_does_not_create_removed_tables_again(
    client: PipelineClient, created: pb.Pipeline, engine: ScriptedEngine
) -> None:
    [_ async for _ in client.teardown_pipeline(pb.TeardownPipelineRequest(pipeline_id="first"))]
    with pytest.raises(RpcError, match="set it up or sync it") as error:
        await client.retry_rejected_records(RETRY)
    assert error.value.reason == Reason.PIPELINE_TORN_DOWN
    assert not any(
        isinstance(one, engine_pb.PipelineRetryRejectedRequest) for one in engine.requests
    )
    await _sync(client)
    await client.retry_rejected_records(RETRY)


async def test_a_continuous_pipeline_with_rejected_records_stays_ready_and_reports_the_count(
    settings: ServiceSettings, engine: ScriptedEngine
) -> None:
    engine.batch = _ends(2)
    fast = settings.model_copy(update={"http": "127.0.0.1:0", "read_seconds": 0.1})

    async with running_service(fast) as server, PipelineClient(server.address) as client:

        async def metric() -> float:
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"{server.http_address}/metrics") as answer,
            ):
                text = await answer.text()
            [line] = [
                one for one in text.splitlines() if one.startswith("pipesync_rejected_records ")
            ]
            return float(line.split()[1])

        await create(client)
        pipeline = await shown(
            client,
            lambda one: one.status == pb.PIPELINE_STATUS_READY and bool(one.status_message),
        )
        assert pipeline.status_message.startswith("2 records are rejected")
        assert await metric() == 2
        # A later sync reports that they are written.
        engine.batch = _ends(0)
        pipeline = await shown(client, lambda one: not one.status_message)
        assert pipeline.status == pb.PIPELINE_STATUS_READY
        assert await metric() == 0
        engine.batch = _ends(5)
        await shown(client, lambda one: one.status_message.startswith("5 records"))
        engine.batch = _ends(0)
        answer = await client.retry_rejected_records(RETRY)
        assert answer == pb.RetryRejectedRecordsResponse()
        await shown(client, lambda one: not one.status_message)
