"""Tests for the records of runs, and for the status of their pipeline."""

import pytest
from google.rpc import code_pb2

from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync.v1.progress_pb2 import ConnectionStatus, Progress, RunStatus
from pipesync_client import PipelineClient
from pipesync_rpc.errors import FieldViolation, RpcError
from service_server.store.database import Database
from tests.service_server.conftest import connector
from tests.service_server.scripted_engine import ScriptedEngine
from tests.service_server.syncing import ends, get, runs, state, stored_state, sync, sync_batch


@pytest.fixture(autouse=True)
async def first(created: pb.Pipeline) -> pb.Pipeline:
    return created


async def test_a_batch_that_the_engine_aborts_leaves_a_failed_run_that_can_resume(
    client: PipelineClient, engine: ScriptedEngine, database: Database
) -> None:
    begun = state("kept", run_id="one")
    begun.sync_run.progress.global_state_count = 3
    engine.batch = ends("", status=RunStatus.RUN_STATUS_STARTED, has_more=True, ending_state=begun)
    await sync_batch(client, run_id="one")
    engine.error = RpcError("gone", code=code_pb2.UNAVAILABLE, reason="UNAVAILABLE")
    with pytest.raises(RpcError) as error:
        await sync_batch(client, run_id="one")
    [failed] = await runs(client)
    assert failed.status == RunStatus.RUN_STATUS_FAILED
    assert failed.failure_message == error.value.message
    assert failed.HasField("end_time")
    assert failed.progress.global_state_count == 3
    shown = await get(client)
    assert (shown.status, shown.status_message) == (
        pb.PIPELINE_STATUS_ERROR,
        error.value.message,
    )
    assert await stored_state(database) == begun
    engine.error = None
    engine.batch = ends("{}")
    await sync_batch(client, run_id="one")
    [ended] = await runs(client)
    assert (ended.status, ended.failure_message) == (RunStatus.RUN_STATUS_SUCCEEDED, "")
    assert (await get(client)).status == pb.PIPELINE_STATUS_READY


@pytest.mark.parametrize(
    ("overrides", "failed"),
    [(pb.SyncOverrides(source=connector()), 0), (pb.SyncOverrides(state=state("given")), 1)],
    ids=["what the caller asks", "what is stored"],
)
async def test_only_a_refused_stored_configuration_is_a_failure_of_the_pipeline(
    client: PipelineClient,
    engine: ScriptedEngine,
    database: Database,
    overrides: pb.SyncOverrides,
    failed: int,
) -> None:
    engine.error = RpcError(
        "bad",
        code=code_pb2.INVALID_ARGUMENT,
        field_violations=[FieldViolation("pipeline.source.config.rate", "is wrong")],
    )
    with pytest.raises(RpcError):
        await sync_batch(client, overrides=overrides)
    with pytest.raises(RpcError):
        [_ async for _ in sync(client, overrides=overrides)]
    # The run of a batch has its own id.
    assert len(await runs(client)) == 2 * failed
    status = pb.PIPELINE_STATUS_ERROR if failed else pb.PIPELINE_STATUS_SETUP
    assert (await get(client)).status == status
    assert await stored_state(database) is None


async def test_each_run_has_one_record_over_all_its_requests(
    client: PipelineClient, engine: ScriptedEngine
) -> None:
    engine.batch = ends("{}", status=RunStatus.RUN_STATUS_STARTED, has_more=True)
    await sync_batch(client, run_id="one")
    assert (await get(client)).status == pb.PIPELINE_STATUS_BACKFILL
    progress = Progress(global_state_count=3)
    engine.batch = ends("{}", run_progress=progress)
    await sync_batch(client, run_id="one")
    shown = await get(client)
    assert shown.status == pb.PIPELINE_STATUS_READY
    assert shown.progress == progress
    engine.batch = ends("{}", status=RunStatus.RUN_STATUS_FAILED, failure_message="it broke")
    await sync_batch(client)
    shown = await get(client)
    assert (shown.status, shown.status_message) == (pb.PIPELINE_STATUS_ERROR, "it broke")
    newest = (await runs(client))[0]
    assert newest.failure_message == "it broke"
    assert newest.HasField("end_time")


async def test_runs_are_paged_newest_first(client: PipelineClient) -> None:
    for name in ("a", "b", "c"):
        await sync_batch(client, run_id=name)
    found: list[str] = []
    token = ""
    while token or not found:
        request = pb.ListRunsRequest(pipeline_id="first", page_size=2, page_token=token)
        answer = await client.list_runs(request)
        found += [run.run_id for run in answer.runs]
        token = answer.next_page_token
    assert found == ["c", "b", "a"]


async def test_the_reason_of_a_failed_connection_is_shown(
    client: PipelineClient, engine: ScriptedEngine
) -> None:
    failed = ConnectionStatus(status=ConnectionStatus.STATUS_FAILED, message="bad key")
    progress = Progress(connection_status=failed)
    engine.batch = ends("{}", status=RunStatus.RUN_STATUS_FAILED, run_progress=progress)
    await sync_batch(client)
    assert (await get(client)).status_message == "bad key"
