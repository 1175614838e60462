import pytest
from google.protobuf.struct_pb2 import Struct
from google.rpc import code_pb2

from pipesync.v1 import engine_service_pb2 as engine_pb
from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync.v1.message_pb2 import Control, Message
from pipesync.v1.state_pb2 import SyncState
from pipesync_client import PipelineClient
from pipesync_rpc.errors import RpcError
from service_server.store import states
from service_server.store.database import Database
from tests.service_server.conftest import SECRET, connector
from tests.service_server.scripted_engine import ScriptedEngine

MASK = "********"


def struct(**fields: str) -> Struct:
    made = Struct()
    made.update(fields)
    return made


async def test_setup_stores_the_configuration_that_comes_of_it(
    client: PipelineClient, created: pb.Pipeline, engine: ScriptedEngine
) -> None:
    control = Control(source_config=struct(api_key=SECRET, webhook_secret="whsec_planted"))
    engine.setup_messages = [Message(control=control)]
    answers = [
        answer.message
        async for answer in client.setup_pipeline(pb.SetupPipelineRequest(id="first"))
    ]
    assert dict(answers[0].control.source_config) == {"api_key": MASK, "webhook_secret": MASK}
    stored = (await client.get_pipeline(pb.GetPipelineRequest(id="first"))).pipeline
    assert dict(stored.config.source.config) == {"api_key": MASK, "webhook_secret": MASK}
    assert stored.etag != created.etag
    [_ async for _ in client.check_pipeline(pb.CheckPipelineRequest(id="first"))]
    config = engine.last(engine_pb.PipelineCheckRequest).pipeline
    assert config.source.config["webhook_secret"] == "whsec_planted"


async def test_discovery_works_with_and_without_a_stored_pipeline(
    client: PipelineClient, created: pb.Pipeline, engine: ScriptedEngine
) -> None:
    for request in (
        pb.DiscoverSourceRequest(pipeline_id="first"),
        pb.DiscoverSourceRequest(source=connector()),
    ):
        (answer,) = [answer async for answer in client.discover_source(request)]
        assert answer.message.catalog.streams[0].name == "customers"
        source = engine.last(engine_pb.SourceDiscoverRequest).source
        assert source.config["api_key"] == SECRET


async def test_discovery_of_nothing_is_refused(client: PipelineClient) -> None:
    with pytest.raises(RpcError) as error:
        [_ async for _ in client.discover_source(pb.DiscoverSourceRequest())]
    assert error.value.code == code_pb2.INVALID_ARGUMENT


async def test_tearing_the_destination_down_forgets_the_state(
    client: PipelineClient, created: pb.Pipeline, database: Database
) -> None:
    async with database.connection() as connection:
        await states.put(connection, "first", SyncState(destination="{}"))
    for side, kept in (
        (engine_pb.CONNECTOR_SIDE_SOURCE, True),
        (engine_pb.CONNECTOR_SIDE_DESTINATION, False),
    ):
        request = pb.TeardownPipelineRequest(id="first", only=side)
        assert [_ async for _ in client.teardown_pipeline(request)]
        async with database.connection() as connection:
            assert (await states.get(connection, "first") is not None) is kept


async def test_a_deleted_pipeline_is_torn_down_and_gone(
    client: PipelineClient, created: pb.Pipeline, engine: ScriptedEngine
) -> None:
    await client.delete_pipeline(pb.DeletePipelineRequest(id="first"))
    assert engine.last(engine_pb.PipelineTeardownRequest)
    with pytest.raises(RpcError) as error:
        await client.get_pipeline(pb.GetPipelineRequest(id="first"))
    assert error.value.code == code_pb2.NOT_FOUND


async def test_a_pipeline_whose_teardown_fails_stays_unless_it_is_skipped(
    client: PipelineClient, created: pb.Pipeline, engine: ScriptedEngine
) -> None:
    engine.error = RpcError("no", code=code_pb2.FAILED_PRECONDITION, reason="CONNECTION_FAILED")
    with pytest.raises(RpcError) as error:
        await client.delete_pipeline(pb.DeletePipelineRequest(id="first"))
    assert error.value.reason == "CONNECTION_FAILED"
    await client.get_pipeline(pb.GetPipelineRequest(id="first"))
    await client.delete_pipeline(pb.DeletePipelineRequest(id="first", skip_teardown=True))
    assert not (await client.list_pipelines(pb.ListPipelinesRequest())).pipelines


async def test_the_callers_request_id_reaches_the_engine(
    client: PipelineClient, created: pb.Pipeline, engine: ScriptedEngine
) -> None:
    [_ async for _ in client.check_pipeline(pb.CheckPipelineRequest(id="first"))]
    assert engine.metadata["x-pipeline-id"] == "first"
    assert engine.metadata["x-request-id"]
