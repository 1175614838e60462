import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, TypeAlias

import pytest
from google.protobuf.struct_pb2 import Struct
from google.rpc import code_pb2

from pipesync.v1 import engine_service_pb2 as engine_pb
from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync.v1.message_pb2 import Control, Message
from pipesync.v1.state_pb2 import SyncState
from pipesync_client import PipelineClient
from pipesync_rpc.errors import RpcError
from service_server.store import pipelines, states
from service_server.store.database import Database
from tests.service_server.conftest import SECRET, connector
from tests.service_server.scripted_engine import DROPPED, PLANNED, ScriptedEngine
from tests.service_server.syncing import stored_state

MASK = "********"


def struct(**fields: str) -> Struct:
    made = Struct()
    made.update(fields)
    return made


async def test_setup_stores_the_fields_that_it_fills_in(
    client: PipelineClient, created: pb.Pipeline, engine: ScriptedEngine
) -> None:
    control = Control(source_config=struct(api_key=SECRET, webhook_secret="whsec_planted"))
    engine.setup_messages = [Message(control=control)]
    answers = [
        answer.message
        async for answer in client.setup_pipeline(pb.SetupPipelineRequest(pipeline_id="first"))
    ]
    assert dict(answers[0].control.source_config) == {"api_key": MASK, "webhook_secret": MASK}
    stored = (await client.get_pipeline(pb.GetPipelineRequest(pipeline_id="first"))).pipeline
    assert dict(stored.config.source.config) == {"api_key": MASK, "webhook_secret": MASK}
    assert stored.etag != created.etag
    [_ async for _ in client.check_pipeline(pb.CheckPipelineRequest(pipeline_id="first"))]
    config = engine.last(engine_pb.PipelineCheckRequest).pipeline
    assert config.source.config["webhook_secret"] == "whsec_planted"


async def test_a_pipeline_that_is_being_deleted_is_not_set_up(
    client: PipelineClient, created: pb.Pipeline, engine: ScriptedEngine, database: Database
) -> None:
    async with database.connection() as connection:
        await pipelines.mark_deleted(connection, "first")
    with pytest.raises(RpcError) as error:
        [_ async for _ in client.setup_pipeline(pb.SetupPipelineRequest(pipeline_id="first"))]
    assert error.value.reason == "PIPELINE_BEING_DELETED"
    assert not any(isinstance(one, engine_pb.PipelineSetupRequest) for one in engine.requests)


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


@pytest.mark.parametrize("value", [MASK, f"{MASK},new", f"{MASK} "])
async def test_discovery_without_a_pipeline_keeps_no_secret(
    client: PipelineClient, created: pb.Pipeline, engine: ScriptedEngine, value: str
) -> None:
    engine.requests.clear()
    request = pb.DiscoverSourceRequest(source=connector(api_key=value))
    with pytest.raises(RpcError) as error:
        [_ async for _ in client.discover_source(request)]
    assert error.value.code == code_pb2.INVALID_ARGUMENT
    assert [one.field for one in error.value.field_violations] == ["source.config.api_key"]
    assert not engine.requests


async def test_discovery_without_a_subject_is_refused(client: PipelineClient) -> None:
    with pytest.raises(RpcError) as error:
        [_ async for _ in client.discover_source(pb.DiscoverSourceRequest())]
    assert error.value.code == code_pb2.INVALID_ARGUMENT


async def test_a_teardown_of_the_destination_deletes_the_state(
    client: PipelineClient, created: pb.Pipeline, database: Database
) -> None:
    async with database.connection() as connection:
        await states.put(connection, "first", SyncState(destination="{}"))
    for side, kept in (
        (engine_pb.CONNECTOR_SIDE_SOURCE, True),
        (engine_pb.CONNECTOR_SIDE_DESTINATION, False),
    ):
        request = pb.TeardownPipelineRequest(pipeline_id="first", side=side)
        assert [_ async for _ in client.teardown_pipeline(request)]
        async with database.connection() as connection:
            assert (await states.get(connection, "first") is not None) is kept


async def tear_down(client: PipelineClient) -> list[Message]:
    request = pb.TeardownPipelineRequest(pipeline_id="first")
    return [answer.message async for answer in client.teardown_pipeline(request)]


async def delete(client: PipelineClient) -> list[Message]:
    return list(
        (await client.delete_pipeline(pb.DeletePipelineRequest(pipeline_id="first"))).messages
    )


REMOVALS = pytest.mark.parametrize("remove", [tear_down, delete])
Remove: TypeAlias = Callable[[PipelineClient], Awaitable[list[Message]]]


@pytest.fixture
async def synced(created: pb.Pipeline, database: Database) -> pb.Pipeline:
    """Return the pipeline "first" with a state."""
    async with database.connection() as connection:
        await states.put(connection, "first", SyncState(destination="{}"))
    return created


@REMOVALS
async def test_the_response_names_the_removals(
    client: PipelineClient, synced: pb.Pipeline, remove: Remove
) -> None:
    assert await remove(client) == [DROPPED]


async def planned(client: PipelineClient, removal: str, **fields: Any) -> list[Message]:
    """Return the planned removals of a teardown or a deletion."""
    if removal == "delete":
        request = pb.DeletePipelineRequest(pipeline_id="first", validate_only=True, **fields)
        return list((await client.delete_pipeline(request)).messages)
    teardown = pb.TeardownPipelineRequest(pipeline_id="first", validate_only=True, **fields)
    return [answer.message async for answer in client.teardown_pipeline(teardown)]


@pytest.mark.parametrize("removal", ["teardown", "delete"])
async def test_a_plan_names_the_removals_and_removes_nothing(
    client: PipelineClient,
    synced: pb.Pipeline,
    engine: ScriptedEngine,
    database: Database,
    removal: str,
) -> None:
    assert await planned(client, removal) == [PLANNED]
    assert not any(isinstance(one, engine_pb.PipelineTeardownRequest) for one in engine.requests)
    assert await stored_state(database) is not None
    assert (
        await client.get_pipeline(pb.GetPipelineRequest(pipeline_id="first"))
    ).pipeline == synced


async def test_a_plan_is_of_the_requested_side(
    client: PipelineClient, created: pb.Pipeline, engine: ScriptedEngine
) -> None:
    side = engine_pb.CONNECTOR_SIDE_SOURCE
    await planned(client, "teardown", side=side)
    assert engine.last(engine_pb.PipelinePlanTeardownRequest).side == side
    engine.requests.clear()
    assert await planned(client, "delete", skip_teardown=True) == []
    assert engine.requests == []


@pytest.mark.parametrize("removal", ["teardown", "delete"])
async def test_a_plan_for_an_unknown_pipeline_is_refused(
    client: PipelineClient, removal: str
) -> None:
    with pytest.raises(RpcError) as error:
        await planned(client, removal)
    assert error.value.reason == "PIPELINE_NOT_FOUND"


@REMOVALS
async def test_nothing_is_removed_while_the_destination_cannot_be_reached(
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
async def test_a_failed_teardown_of_a_pipeline_without_a_state_does_not_stop_its_events(
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
async def test_a_destination_that_cannot_be_written_to_can_be_torn_down(
    client: PipelineClient, synced: pb.Pipeline, engine: ScriptedEngine, remove: Remove
) -> None:
    engine.failing_check, engine.failing_check_reached = "role lacks INSERT", True
    assert await remove(client) == [DROPPED]


@REMOVALS
async def test_after_a_failed_teardown_the_next_sync_restarts_and_a_repetition_succeeds(
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
    assert (await client.get_pipeline(pb.GetPipelineRequest(pipeline_id="first"))).pipeline.id
    engine.teardown = whole
    assert await remove(client) == [DROPPED]


async def test_a_teardown_runs_to_its_end_when_its_caller_disconnects(
    client: PipelineClient, synced: pb.Pipeline, engine: ScriptedEngine
) -> None:
    proceed, ended = asyncio.Event(), asyncio.Event()

    async def waits() -> AsyncGenerator[Message, None]:
        yield DROPPED
        await proceed.wait()
        yield DROPPED
        ended.set()

    engine.teardown = waits
    answers = client.teardown_pipeline(pb.TeardownPipelineRequest(pipeline_id="first"))
    async with aclosing(answers):
        await anext(answers)
    ending = asyncio.create_task(ended.wait())
    # Enough time for a cancellation to reach the engine.
    await asyncio.wait([ending], timeout=0.2)
    proceed.set()
    async with asyncio.timeout(5):
        await ending


async def test_a_deleted_pipeline_is_torn_down_and_not_found(
    client: PipelineClient, created: pb.Pipeline, engine: ScriptedEngine
) -> None:
    await client.delete_pipeline(pb.DeletePipelineRequest(pipeline_id="first"))
    assert engine.last(engine_pb.PipelineTeardownRequest)
    with pytest.raises(RpcError) as error:
        await client.get_pipeline(pb.GetPipelineRequest(pipeline_id="first"))
    assert error.value.code == code_pb2.NOT_FOUND


async def test_a_pipeline_whose_teardown_fails_stays_unless_it_is_skipped(
    client: PipelineClient, created: pb.Pipeline, engine: ScriptedEngine
) -> None:
    engine.error = RpcError("no", code=code_pb2.FAILED_PRECONDITION, reason="CONNECTION_FAILED")
    with pytest.raises(RpcError) as error:
        await client.delete_pipeline(pb.DeletePipelineRequest(pipeline_id="first"))
    assert error.value.reason == "CONNECTION_FAILED"
    await client.get_pipeline(pb.GetPipelineRequest(pipeline_id="first"))
    await client.delete_pipeline(pb.DeletePipelineRequest(pipeline_id="first", skip_teardown=True))
    assert not (await client.list_pipelines(pb.ListPipelinesRequest())).pipelines


async def test_the_callers_request_id_reaches_the_engine(
    client: PipelineClient, created: pb.Pipeline, engine: ScriptedEngine
) -> None:
    [_ async for _ in client.check_pipeline(pb.CheckPipelineRequest(pipeline_id="first"))]
    assert engine.metadata["x-pipeline-id"] == "first"
    assert engine.metadata["x-request-id"]
