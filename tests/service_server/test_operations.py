import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import TypeAlias

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
from tests.service_server.scripted_engine import DROPPED, ScriptedEngine
from tests.service_server.syncing import stored_state

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


async def tear_down(client: PipelineClient) -> list[Message]:
    request = pb.TeardownPipelineRequest(id="first")
    return [answer.message async for answer in client.teardown_pipeline(request)]


async def delete(client: PipelineClient) -> list[Message]:
    return list((await client.delete_pipeline(pb.DeletePipelineRequest(id="first"))).messages)


REMOVALS = pytest.mark.parametrize("remove", [tear_down, delete])
Remove: TypeAlias = Callable[[PipelineClient], Awaitable[list[Message]]]


@pytest.fixture
async def synced(created: pb.Pipeline, database: Database) -> pb.Pipeline:
    """The pipeline "first" with a state."""
    async with database.connection() as connection:
        await states.put(connection, "first", SyncState(destination="{}"))
    return created


@REMOVALS
async def test_the_caller_is_told_what_was_removed(
    client: PipelineClient, synced: pb.Pipeline, remove: Remove
) -> None:
    assert await remove(client) == [DROPPED]


@REMOVALS
async def test_nothing_is_removed_or_forgotten_while_the_destination_is_out_of_reach(
    client: PipelineClient,
    synced: pb.Pipeline,
    engine: ScriptedEngine,
    database: Database,
    remove: Remove,
) -> None:
    engine.failing_check = "no route to host"
    with pytest.raises(RpcError, match="no route to host; nothing was removed") as error:
        await remove(client)
    assert error.value.reason == "CONNECTION_FAILED"
    assert not any(isinstance(one, engine_pb.PipelineTeardownRequest) for one in engine.requests)
    assert await stored_state(database) is not None


@REMOVALS
async def test_events_go_on_while_the_destination_of_a_pipeline_without_a_state_is_out_of_reach(
    client: PipelineClient,
    created: pb.Pipeline,
    engine: ScriptedEngine,
    database: Database,
    remove: Remove,
) -> None:
    engine.failing_check = "no route to host"
    with pytest.raises(RpcError, match="no route to host; nothing was removed"):
        await remove(client)
    async with database.connection() as connection:
        assert not await connection.fetchval("SELECT is_torn_down FROM pipesync.pipelines")


@REMOVALS
async def test_what_keeps_a_sync_from_writing_keeps_nothing_from_being_removed(
    client: PipelineClient, synced: pb.Pipeline, engine: ScriptedEngine, remove: Remove
) -> None:
    engine.failing_check, engine.failing_check_reached = "role lacks INSERT", True
    assert await remove(client) == [DROPPED]


@REMOVALS
async def test_after_half_a_teardown_the_next_sync_begins_anew_and_it_can_be_repeated(
    client: PipelineClient,
    synced: pb.Pipeline,
    engine: ScriptedEngine,
    database: Database,
    remove: Remove,
) -> None:
    async def breaks_off() -> AsyncGenerator[Message, None]:
        yield DROPPED
        raise RpcError("a view is in the way", code=code_pb2.FAILED_PRECONDITION, reason="HELD")

    whole, engine.teardown = engine.teardown, breaks_off
    with pytest.raises(RpcError, match=r"a view is in the way; .* reads everything again") as error:
        await remove(client)
    assert error.value.reason == "HELD"
    assert await stored_state(database) is None
    assert (await client.get_pipeline(pb.GetPipelineRequest(id="first"))).pipeline.id
    engine.teardown = whole
    assert await remove(client) == [DROPPED]


async def test_a_teardown_goes_on_to_its_end_when_its_caller_goes_away(
    client: PipelineClient, synced: pb.Pipeline, engine: ScriptedEngine
) -> None:
    proceed, ended = asyncio.Event(), asyncio.Event()

    async def waits() -> AsyncGenerator[Message, None]:
        yield DROPPED
        await proceed.wait()
        yield DROPPED
        ended.set()

    engine.teardown = waits
    answers = client.teardown_pipeline(pb.TeardownPipelineRequest(id="first"))
    async with aclosing(answers):
        await anext(answers)
    ending = asyncio.create_task(ended.wait())
    # Time enough for the engine to be called off, were it to be.
    await asyncio.wait([ending], timeout=0.2)
    proceed.set()
    async with asyncio.timeout(5):
        await ending


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
