"""Tests for the metadata by which a shared service confines pipelines at the engine."""

from typing import Any

import pytest

from pipesync.v1 import engine_service_pb2 as engine_pb
from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync_client import PipelineClient
from pipesync_rpc import context as call_context
from pipesync_rpc.confinement import CONFINED_KEY, SECRETS_FOLDER_KEY
from service_server.bootstrap import running_service
from service_server.settings.service import ServiceSettings
from tests.service_server.conftest import connector, pipeline
from tests.service_server.scripted_engine import ScriptedEngine

WITH_CONFIGURATION = {
    engine_pb.SourceDiscoverRequest,
    engine_pb.PipelineCheckRequest,
    engine_pb.PipelineSetupRequest,
    engine_pb.PipelineTeardownRequest,
    engine_pb.PipelineSyncRequest,
    engine_pb.PipelineSyncBatchRequest,
    engine_pb.PipelineRetryRejectedRequest,
}


@pytest.fixture
def asked(
    engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> list[tuple[type[Any], str | None, str | None]]:
    """Return each call with a configuration: its request and its confinement."""
    found: list[tuple[type[Any], str | None, str | None]] = []
    enter = engine._enter

    def note(request: Any, context: Any) -> None:
        enter(request, context)
        if type(request) in WITH_CONFIGURATION:
            confined, folder = map(engine.metadata.get, (CONFINED_KEY, SECRETS_FOLDER_KEY))
            found.append((type(request), confined, folder))

    monkeypatch.setattr(engine, "_enter", note)
    return found


async def use(client: PipelineClient) -> None:
    """Make the service send each of its calls for one pipeline."""
    # The metadata of the caller itself is ignored.
    call_context.bind(pipeline_id="another-teams")
    await client.create_pipeline(pb.CreatePipelineRequest(pipeline=pipeline("ours-orders")))
    name = "ours-orders"
    async for _ in client.discover_source(pb.DiscoverSourceRequest(pipeline_id=name)):
        pass
    async for _ in client.check_pipeline(pb.CheckPipelineRequest(pipeline_id=name)):
        pass
    async for _ in client.setup_pipeline(pb.SetupPipelineRequest(pipeline_id=name)):
        pass
    async for _ in client.sync_pipeline(pb.SyncPipelineRequest(pipeline_id=name)):
        pass
    await client.sync_pipeline_batch(pb.SyncPipelineBatchRequest(pipeline_id=name))
    await client.retry_rejected_records(pb.RetryRejectedRecordsRequest(pipeline_id=name))
    await client.delete_pipeline(pb.DeletePipelineRequest(pipeline_id=name))


async def test_each_call_is_confined_to_the_folder_of_its_pipeline(
    settings: ServiceSettings, asked: list[tuple[type[Any], str | None, str | None]]
) -> None:
    shared = settings.model_copy(update={"confine_pipelines": True})
    async with running_service(shared) as server, PipelineClient(server.address) as client:
        await use(client)
        assert {request for request, *_ in asked} == WITH_CONFIGURATION
        assert {(confined, folder) for _, confined, folder in asked} == {("1", "ours-orders")}
        asked.clear()
        # The pipeline is not stored yet, so it may read none of the engine's files.
        async for _ in client.discover_source(pb.DiscoverSourceRequest(source=connector())):
            pass
        await client.create_pipeline(pb.CreatePipelineRequest(pipeline=pipeline("")))
        assert {(confined, folder) for _, confined, folder in asked} == {("1", None)}


async def test_a_service_on_loopback_confines_no_pipelines(
    client: PipelineClient, asked: list[tuple[type[Any], str | None, str | None]]
) -> None:
    await use(client)
    assert {(confined, folder) for _, confined, folder in asked} == {(None, None)}


def test_a_service_that_other_machines_reach_confines_pipelines(settings: ServiceSettings) -> None:
    assert not settings.confines_pipelines
    assert settings.model_copy(update={"confine_pipelines": True}).confines_pipelines
    assert settings.model_copy(update={"listen": "10.0.0.1:50052"}).confines_pipelines
    assert not settings.model_copy(update={"listen": "unix:/run/pipesync"}).confines_pipelines
