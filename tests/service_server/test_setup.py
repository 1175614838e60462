"""Tests for setups concurrent with updates and removals, whose changes are kept."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct
from google.rpc import code_pb2

from pipesync.v1 import engine_service_pb2 as engine_pb
from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync.v1.catalog_pb2 import Connector
from pipesync.v1.message_pb2 import Control, Message
from pipesync_client import PipelineClient
from pipesync_rpc.errors import RpcError
from tests.service_server.conftest import SECRET, connector
from tests.service_server.lifecycle.scripts import update
from tests.service_server.scripted_engine import DROPPED, ScriptedEngine
from tests.service_server.syncing import sync_batch

SETUP = pb.SetupPipelineRequest(pipeline_id="first")
OTHER = "sk_test_other"
# Fields of a webhook endpoint that a source registered.
MADE = {"webhook_secret": "whsec_made"}


def struct(**fields: object) -> Struct:
    return ParseDict(fields, Struct())


def fills_in(**fields: object) -> Message:
    """Return the control message of a source that was created with the planted secret alone."""
    return Message(control=Control(source_config=struct(**{"api_key": SECRET, **fields})))


async def set_up(client: PipelineClient) -> list[Message]:
    return [answer.message async for answer in client.setup_pipeline(SETUP)]


def connected(side: str, **config: object) -> pb.Pipeline:
    """Return the update of a pipeline that replaces one connector."""
    wanted = pb.Pipeline(id="first")
    getattr(wanted.config, side).CopyFrom(connector("scripted", **config))
    return wanted


@asynccontextmanager
async def setting_up(
    client: PipelineClient, engine: ScriptedEngine, *answers: Message
) -> AsyncIterator["asyncio.Task[list[Message]]"]:
    """Run a setup that fills in ``answers`` after the body."""
    entered, proceed = asyncio.Event(), asyncio.Event()

    async def setup() -> AsyncGenerator[Message, None]:
        entered.set()
        await proceed.wait()
        for answer in answers:
            yield answer

    engine.setup = setup
    task = asyncio.create_task(set_up(client))
    entering = asyncio.create_task(entered.wait())
    await asyncio.wait([task, entering], return_when=asyncio.FIRST_COMPLETED)
    try:
        yield task
    finally:
        entering.cancel()
        proceed.set()
        await asyncio.wait([task])


async def stored_source(client: PipelineClient, engine: ScriptedEngine) -> dict[str, Any]:
    """Return the stored configuration of the source, with its secrets."""
    [_ async for _ in client.check_pipeline(pb.CheckPipelineRequest(pipeline_id="first"))]
    source: Connector = engine.last(engine_pb.PipelineCheckRequest).pipeline.source
    return dict(source.config)


def teardowns(engine: ScriptedEngine) -> list[engine_pb.PipelineTeardownRequest]:
    return [one for one in engine.requests if isinstance(one, engine_pb.PipelineTeardownRequest)]


async def test_an_update_during_a_setup_is_kept_with_the_filled_in_fields(
    client: PipelineClient, created: pb.Pipeline, engine: ScriptedEngine
) -> None:
    async with setting_up(client, engine, fills_in(**MADE)) as setup:
        await update(client, connected("source", rate=5, base_url="http://there"), "config.source")
    assert len(await setup) == 1
    assert await stored_source(client, engine) == {
        "api_key": SECRET,
        "rate": 5,
        "base_url": "http://there",
        **MADE,
    }
    assert not teardowns(engine)


async def test_a_field_that_a_connector_removes_is_removed(
    client: PipelineClient, created: pb.Pipeline, engine: ScriptedEngine
) -> None:
    await update(client, connected("source", rate=5, **MADE), "config.source")
    engine.setup_messages = [fills_in(rate=5)]
    await set_up(client)
    assert await stored_source(client, engine) == {"api_key": SECRET, "rate": 5}


async def test_two_messages_of_one_setup_are_both_stored(
    client: PipelineClient, created: pb.Pipeline, engine: ScriptedEngine
) -> None:
    engine.setup_messages = [fills_in(rate=5), fills_in(rate=7, **MADE)]
    await set_up(client)
    assert await stored_source(client, engine) == {"api_key": SECRET, "rate": 7, **MADE}


async def test_a_setup_that_fills_in_no_field_stores_nothing(
    client: PipelineClient, created: pb.Pipeline, engine: ScriptedEngine
) -> None:
    engine.setup_messages = [fills_in()]
    await set_up(client)
    answer = await client.get_pipeline(pb.GetPipelineRequest(pipeline_id="first"))
    assert answer.pipeline.etag == created.etag


@pytest.mark.parametrize(
    ("wanted", "stored"),
    [
        ({"api_key": OTHER}, {"api_key": OTHER}),
        ({"host": "there"}, {"api_key": SECRET, "host": "there"}),
        (
            {"webhook_secret": "whsec_given"},
            {"api_key": SECRET, "webhook_secret": "whsec_given"},
        ),
    ],
    ids=["another key", "another place", "another value"],
)
async def test_fields_of_another_configuration_are_not_stored_and_their_objects_are_removed(
    client: PipelineClient,
    created: pb.Pipeline,
    engine: ScriptedEngine,
    wanted: dict[str, str],
    stored: dict[str, str],
) -> None:
    async with setting_up(client, engine, fills_in(**MADE)) as setup:
        changed = await update(client, connected("source", **wanted), "config.source")
    with pytest.raises(RpcError, match="run setup again; webhook_secret of this one") as error:
        await setup
    assert (error.value.code, error.value.reason) == (code_pb2.ABORTED, "PIPELINE_CHANGED")
    assert "was removed again" in error.value.message
    assert await stored_source(client, engine) == stored
    answer = await client.get_pipeline(pb.GetPipelineRequest(pipeline_id="first"))
    assert answer.pipeline.etag == changed.etag
    [teardown] = teardowns(engine)
    assert teardown.side == engine_pb.CONNECTOR_SIDE_SOURCE
    assert dict(teardown.pipeline.source.config) == {"api_key": SECRET, **MADE}
    engine.setup, engine.setup_messages = None, []
    assert await set_up(client) == []


async def test_another_connector_does_not_get_the_fields_of_the_previous_one(
    client: PipelineClient, created: pb.Pipeline, engine: ScriptedEngine
) -> None:
    wanted = pb.Pipeline(id="first")
    wanted.config.source.CopyFrom(connector("other"))
    async with setting_up(client, engine, fills_in(**MADE)) as setup:
        await update(client, wanted, "config.source")
    with pytest.raises(RpcError, match="run setup again"):
        await setup
    assert await stored_source(client, engine) == {"api_key": SECRET}


async def test_only_objects_with_a_secret_are_removed_again(
    client: PipelineClient, created: pb.Pipeline, engine: ScriptedEngine
) -> None:
    async with setting_up(client, engine, fills_in(rate=5)) as setup:
        await update(client, connected("source", api_key=OTHER), "config.source")
    with pytest.raises(RpcError, match=r"rate of this one .* not stored$"):
        await setup
    assert not teardowns(engine)


async def test_a_destination_is_never_torn_down_by_a_setup(
    client: PipelineClient, created: pb.Pipeline, engine: ScriptedEngine
) -> None:
    control = Control(destination_config=struct(api_key=f"{SECRET}_2", **MADE))
    async with setting_up(client, engine, Message(control=control)) as setup:
        await update(client, connected("destination", api_key=OTHER), "config.destination")
    with pytest.raises(RpcError, match=r"not stored$"):
        await setup
    assert not teardowns(engine)


async def test_objects_that_could_not_be_removed_are_reported(
    client: PipelineClient, created: pb.Pipeline, engine: ScriptedEngine
) -> None:
    error = RpcError("expired key", code=code_pb2.FAILED_PRECONDITION, reason="CONNECTION_FAILED")

    async def fails() -> AsyncGenerator[Message, None]:
        yield DROPPED
        raise error

    engine.teardown = fails
    async with setting_up(client, engine, fills_in(**MADE)) as setup:
        await update(client, connected("source", api_key=OTHER), "config.source")
    with pytest.raises(RpcError, match=r"was left there \(expired key\)"):
        await setup


async def tear_down(client: PipelineClient) -> object:
    request = pb.TeardownPipelineRequest(pipeline_id="first")
    return [_ async for _ in client.teardown_pipeline(request)]


async def delete(client: PipelineClient) -> object:
    return await client.delete_pipeline(pb.DeletePipelineRequest(pipeline_id="first"))


Call = Callable[[PipelineClient], Any]


@pytest.mark.parametrize("call", [tear_down, delete, set_up, sync_batch])
async def test_operations_that_exclude_a_setup_do_not_begin_during_one(
    client: PipelineClient, created: pb.Pipeline, engine: ScriptedEngine, call: Call
) -> None:
    async with setting_up(client, engine, fills_in(**MADE)) as setup:
        with pytest.raises(RpcError, match="a sync or a setup of pipeline 'first'") as error:
            await call(client)
        assert (error.value.code, error.value.reason) == (code_pb2.ABORTED, "SYNC_IN_PROGRESS")
    await setup
    assert not teardowns(engine)
    assert await stored_source(client, engine) == {"api_key": SECRET, **MADE}
    answer = await client.get_pipeline(pb.GetPipelineRequest(pipeline_id="first"))
    assert answer.pipeline.desired_status == pb.DESIRED_STATUS_ACTIVE


async def test_a_setup_does_not_begin_during_a_teardown(
    client: PipelineClient, created: pb.Pipeline, engine: ScriptedEngine
) -> None:
    entered, proceed = asyncio.Event(), asyncio.Event()

    async def waits() -> AsyncGenerator[Message, None]:
        entered.set()
        await proceed.wait()
        yield DROPPED

    engine.teardown = waits
    teardown = asyncio.create_task(tear_down(client))
    async with asyncio.timeout(5):
        await entered.wait()
    with pytest.raises(RpcError) as error:
        await set_up(client)
    assert (error.value.code, error.value.reason) == (code_pb2.ABORTED, "SYNC_IN_PROGRESS")
    proceed.set()
    await teardown
    assert not any(isinstance(one, engine_pb.PipelineSetupRequest) for one in engine.requests)
