"""Invalid requests are refused before any work, with every invalid field."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2

from pipesync.v1 import engine_service_pb2 as pb
from pipesync.v1.catalog_pb2 import Connector, PipelineConfig, StreamSelection
from pipesync.v1.message_pb2 import SourceInput
from pipesync_client import EngineClient
from pipesync_rpc.errors import RpcError
from tests.engine_server.engine import ScriptedEngine, connector, pipeline
from tests.engine_server.reads import pages
from tests.messages import checkpoint, struct

Call = Callable[[EngineClient, PipelineConfig, pb.SyncOptions], Awaitable[object]]


async def _sync(client: EngineClient, config: PipelineConfig, options: pb.SyncOptions) -> None:
    await _exhaust(client.pipeline_sync(pb.PipelineSyncRequest(pipeline=config, options=options)))


async def _batch(client: EngineClient, config: PipelineConfig, options: pb.SyncOptions) -> None:
    await client.pipeline_sync_batch(pb.PipelineSyncBatchRequest(pipeline=config, options=options))


async def _exhaust(responses: AsyncGenerator[Any, None]) -> None:
    async for _ in responses:
        pass


SYNCS = pytest.mark.parametrize("call", [_sync, _batch])


@pytest.fixture(autouse=True)
def _offer_streams(engine: ScriptedEngine) -> None:
    engine.offers("customers", "invoices", read=pages({"customers": [], "invoices": []}))


async def refusal(call: Awaitable[object]) -> RpcError:
    with pytest.raises(RpcError) as caught:
        await call
    return caught.value


def fields(error: RpcError) -> dict[str, str]:
    assert error.code == code_pb2.INVALID_ARGUMENT
    assert error.reason == "INVALID_REQUEST"
    return {violation.field: violation.description for violation in error.field_violations}


@SYNCS
async def test_every_invalid_field_is_reported_at_once(engine: ScriptedEngine, call: Call) -> None:
    error = await refusal(
        call(
            engine.client,
            PipelineConfig(
                source=connector(scrpit="x"),
                destination=Connector(type="scripted", config=struct({"script": 5})),
            ),
            pb.SyncOptions(state_limit=-1, time_limit=Duration(seconds=-1)),
        )
    )
    assert fields(error) == {
        "options.state_limit": "must be 1 or more, or 0 for the default",
        "options.time_limit": "must be longer than 0 s, or absent for no limit",
        "pipeline.source.config.scrpit": ("is not a field of this connector; did you mean script?"),
        "pipeline.destination.config.script": "input should be a valid string",
    }
    assert not engine.source.requests


@SYNCS
async def test_unknown_streams_are_reported_with_the_closest_known_name(
    engine: ScriptedEngine, call: Call
) -> None:
    selections = [StreamSelection(name="custmers"), StreamSelection(name="invoices")]
    error = await refusal(call(engine.client, pipeline(selections), pb.SyncOptions()))
    assert fields(error) == {
        "pipeline.streams[0].name": "the source has no stream 'custmers'; did you mean customers?"
    }


@SYNCS
async def test_an_empty_request_lists_the_required_fields(
    engine: ScriptedEngine, call: Call
) -> None:
    error = await refusal(call(engine.client, PipelineConfig(), pb.SyncOptions()))
    assert fields(error) == {
        "pipeline.source.type": "is required",
        "pipeline.destination.type": "is required",
    }


@SYNCS
@pytest.mark.parametrize("side", ["source", "destination"])
async def test_an_unknown_connector_is_not_found(
    engine: ScriptedEngine, call: Call, side: str
) -> None:
    config = pipeline()
    getattr(config, side).type = "scriptd"
    error = await refusal(call(engine.client, config, pb.SyncOptions()))
    assert error.code == code_pb2.NOT_FOUND
    assert error.reason == "UNKNOWN_CONNECTOR"
    assert error.message == f"there is no {side} of type 'scriptd'; did you mean scripted?"


@SYNCS
async def test_unknown_connectors_are_reported_on_both_sides(
    engine: ScriptedEngine, call: Call
) -> None:
    config = pipeline()
    config.source.type = config.destination.type = "scriptd"
    error = await refusal(call(engine.client, config, pb.SyncOptions()))
    assert (error.code, error.reason) == (code_pb2.NOT_FOUND, "UNKNOWN_CONNECTOR")
    assert [one.field for one in error.field_violations] == [
        "pipeline.source.type",
        "pipeline.destination.type",
    ]


@SYNCS
async def test_all_kinds_of_faults_are_reported_at_once(engine: ScriptedEngine, call: Call) -> None:
    mode: Any = 9
    config = pipeline(
        [StreamSelection(name="x"), StreamSelection(name="customers", sync_mode=mode)]
    )
    config.destination.type = "scriptd"
    options = pb.SyncOptions(run_id="\0", state_limit=-1, time_limit=Duration(seconds=2**60))
    error = await refusal(call(engine.client, config, options))
    assert set(fields(error)) == {
        "options.run_id",
        "options.state_limit",
        "options.time_limit",
        "pipeline.streams[0].name",
        "pipeline.streams[1].sync_mode",
        "pipeline.destination.type",
    }
    assert not engine.source.requests


@SYNCS
async def test_a_source_without_streams_is_a_failed_precondition(
    engine: ScriptedEngine, call: Call
) -> None:
    engine.holds({})
    error = await refusal(call(engine.client, pipeline(), pb.SyncOptions()))
    assert error.code == code_pb2.FAILED_PRECONDITION
    assert error.reason == "EMPTY_CATALOG"


async def test_inputs_are_refused_by_a_source_without_inputs(engine: ScriptedEngine) -> None:
    inputs = [SourceInput(event=struct({"id": "evt_1"}))]
    calls = [
        engine.client.pipeline_sync_batch(
            pb.PipelineSyncBatchRequest(pipeline=pipeline(), inputs=inputs)
        ),
        _exhaust(
            engine.client.pipeline_sync(pb.PipelineSyncRequest(pipeline=pipeline(), inputs=inputs))
        ),
        _exhaust(
            engine.client.pipeline_read(pb.PipelineReadRequest(pipeline=pipeline(), inputs=inputs))
        ),
    ]
    for call in calls:
        error = await refusal(call)
        assert error.code == code_pb2.UNIMPLEMENTED
        assert error.reason == "INPUTS_NOT_SUPPORTED"
    assert not engine.source.requests


async def test_a_read_is_validated_without_a_destination(
    engine: ScriptedEngine,
) -> None:
    request = pb.PipelineReadRequest(
        pipeline=PipelineConfig(
            source=connector(), streams=[StreamSelection(name="x", backfill_limit=-1)]
        ),
        options=pb.SyncOptions(soft_time_limit=Duration()),
    )
    assert set(fields(await refusal(_exhaust(engine.client.pipeline_read(request))))) == {
        "options.soft_time_limit",
        "pipeline.streams[0].name",
    }


async def test_errors_contain_no_value_of_a_configuration(engine: ScriptedEngine) -> None:
    config = pipeline()
    config.source.config.update({"password": {"hunter2": "hunter2"}})
    error = await refusal(_batch(engine.client, config, pb.SyncOptions()))
    assert fields(error) == {"pipeline.source.config.password": "input should be a valid string"}
    assert "hunter2" not in error.message


async def test_an_exception_before_the_first_message_is_an_internal_error(
    engine: ScriptedEngine,
) -> None:
    async def throws() -> None:
        raise RuntimeError("hunter2")

    engine.source.before_discover = throws
    error = await refusal(_batch(engine.client, pipeline(), pb.SyncOptions()))
    assert error.code == code_pb2.INTERNAL
    assert error.request_id in error.message
    assert "hunter2" not in error.message


async def test_a_write_begins_with_its_pipeline(engine: ScriptedEngine) -> None:
    async def nothing() -> AsyncIterator[pb.PipelineWriteRequest]:
        none: tuple[pb.PipelineWriteRequest, ...] = ()
        for request in none:
            yield request

    async def a_message() -> AsyncIterator[pb.PipelineWriteRequest]:
        yield pb.PipelineWriteRequest(message=checkpoint("customers"))

    for requests in (nothing(), a_message()):
        error = await refusal(_exhaust(engine.client.pipeline_write(requests)))
        assert fields(error) == {"pipeline": "must be in the first request"}


async def test_a_write_without_a_source_needs_a_catalog(engine: ScriptedEngine) -> None:
    async def without_catalog() -> AsyncIterator[pb.PipelineWriteRequest]:
        yield pb.PipelineWriteRequest(pipeline=PipelineConfig(destination=connector(scrpit="x")))
        yield pb.PipelineWriteRequest(message=checkpoint("customers"))

    error = await refusal(_exhaust(engine.client.pipeline_write(without_catalog())))
    assert set(fields(error)) == {"message.catalog", "pipeline.destination.config.scrpit"}
    assert not engine.destination.committed


async def test_get_connector_needs_side_and_type(engine: ScriptedEngine) -> None:
    error = await refusal(engine.client.get_connector(pb.GetConnectorRequest()))
    assert set(fields(error)) == {"side", "type"}
