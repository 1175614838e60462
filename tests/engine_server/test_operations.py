"""Operations besides sync, over gRPC."""

from collections.abc import AsyncIterator

import pytest
from google.rpc import code_pb2

from pipesync.v1 import engine_service_pb2 as pb
from pipesync.v1.catalog_pb2 import (
    Catalog,
    FieldPath,
    PipelineConfig,
    Stream,
    StreamSelection,
)
from pipesync.v1.message_pb2 import Log, Message
from pipesync.v1.progress_pb2 import ConnectionStatus
from pipesync_rpc.errors import RpcError
from tests.engine_server.engine import ScriptedEngine, connector, pipeline
from tests.engine_server.scripted import ScriptedSource
from tests.messages import (
    checkpoint,
    completed,
    errored,
    log,
    record_batch,
    started,
    stream,
)

BOTH = pb.CONNECTOR_SIDE_UNSPECIFIED
SOURCE = pb.CONNECTOR_SIDE_SOURCE
DESTINATION = pb.CONNECTOR_SIDE_DESTINATION
EMITTERS = {
    BOTH: ["source/scripted", "destination/scripted"],
    SOURCE: ["source/scripted"],
    DESTINATION: ["destination/scripted"],
}

each_side = pytest.mark.parametrize("only", [BOTH, SOURCE, DESTINATION])


@pytest.fixture(autouse=True)
def _offer_streams(engine: ScriptedEngine) -> None:
    engine.holds({"a": [], "b": []})


@each_side
async def test_a_check_gives_the_status_of_each_side(
    engine: ScriptedEngine, only: pb.ConnectorSide.ValueType
) -> None:
    request = pb.PipelineCheckRequest(pipeline=pipeline(), side=only)
    messages = [one.message async for one in engine.client.pipeline_check(request)]
    assert [message.emitted_by for message in messages] == EMITTERS[only]
    for message in messages:
        assert message.connection_status.status == ConnectionStatus.STATUS_SUCCEEDED
        assert message.ts.seconds > 0


@each_side
async def test_a_setup_passes_streams_to_the_destination_and_controls_to_the_caller(
    engine: ScriptedEngine, only: pb.ConnectorSide.ValueType
) -> None:
    request = pb.PipelineSetupRequest(
        pipeline=pipeline([StreamSelection(name="b"), StreamSelection(name="a")]), side=only
    )
    messages = [one.message async for one in engine.client.pipeline_setup(request)]
    assert [message.emitted_by for message in messages] == EMITTERS[only]
    if only != DESTINATION:
        assert messages[0].control.source_config["password"] == "made by setup"
    if only != SOURCE:
        assert messages[-1].log.message == "made b, a"


@each_side
async def test_a_teardown_affects_only_the_requested_sides(
    engine: ScriptedEngine, only: pb.ConnectorSide.ValueType
) -> None:
    request = pb.PipelineTeardownRequest(pipeline=pipeline(), side=only)
    messages = [one.message async for one in engine.client.pipeline_teardown(request)]
    assert [message.emitted_by for message in messages] == EMITTERS[only]
    assert all(message.log.message.endswith("torn down") for message in messages)


@each_side
async def test_a_teardown_plan_lists_the_removals_of_planners(
    engine: ScriptedEngine, only: pb.ConnectorSide.ValueType
) -> None:
    request = pb.PipelinePlanTeardownRequest(pipeline=pipeline(), side=only)
    messages = [one.message async for one in engine.client.pipeline_plan_teardown(request)]
    assert [message.emitted_by for message in messages] == EMITTERS[only]
    assert not any("torn down" in message.log.message for message in messages)
    if only != DESTINATION:
        assert "cannot list in advance" in messages[0].log.message
    if only != SOURCE:
        assert messages[-1].planned_removal.name == "a, b"


async def test_an_operation_may_use_one_side_only(engine: ScriptedEngine) -> None:
    for config, only in (
        (PipelineConfig(destination=connector()), DESTINATION),
        (PipelineConfig(source=connector()), SOURCE),
    ):
        request = pb.PipelineCheckRequest(pipeline=config, side=only)
        messages = [one.message async for one in engine.client.pipeline_check(request)]
        assert [message.emitted_by for message in messages] == EMITTERS[only]


async def test_discovery_yields_the_catalog(engine: ScriptedEngine) -> None:
    request = pb.SourceDiscoverRequest(source=connector())
    (message,) = [one.message async for one in engine.client.source_discover(request)]
    assert message.catalog == Catalog(streams=[stream("a"), stream("b")])
    assert message.emitted_by == "source/scripted"


async def test_connectors_are_listed_with_their_specs(engine: ScriptedEngine) -> None:
    listed = (await engine.client.list_connectors(pb.ListConnectorsRequest())).connectors
    assert [(one.side, one.type) for one in listed] == [
        (SOURCE, "scripted"),
        (DESTINATION, "scripted"),
    ]
    request = pb.GetConnectorRequest(side=SOURCE, type="scripted")
    assert (await engine.client.get_connector(request)).connector == listed[0]
    assert listed[0].spec == ScriptedSource().spec()
    only = pb.ListConnectorsRequest(side=DESTINATION)
    assert [one.side for one in (await engine.client.list_connectors(only)).connectors] == [
        DESTINATION
    ]


WRITTEN = (
    started("a"),
    record_batch("a", b'{"id": 1.0}'),
    checkpoint("a", "1"),
    log("a line"),
    checkpoint("unselected", "1"),
    completed("a"),
)


async def write(
    engine: ScriptedEngine, config: PipelineConfig, *messages: Message
) -> list[Message]:
    async def requests() -> AsyncIterator[pb.PipelineWriteRequest]:
        yield pb.PipelineWriteRequest(pipeline=config)
        for message in messages:
            yield pb.PipelineWriteRequest(message=message)

    return [response.message async for response in engine.client.pipeline_write(requests())]


@pytest.mark.parametrize("with_source", [True, False])
async def test_a_write_returns_committed_messages_without_records(
    engine: ScriptedEngine, with_source: bool
) -> None:
    catalog = Message(catalog=Catalog(streams=[stream("a"), stream("b")]))
    answers = (
        await write(engine, pipeline(), *WRITTEN)
        if with_source
        else await write(engine, PipelineConfig(destination=connector()), catalog, *WRITTEN)
    )
    assert [message.WhichOneof("payload") for message in answers] == [
        "stream_status",
        "source_state",
        "log",
        "stream_status",
    ]
    assert answers[1].source_state == WRITTEN[2].source_state
    assert engine.destination.committed == {"a": [b'{"id": 1.0}']}
    assert engine.destination.closed.is_set()
    assert not engine.source.requests


async def test_a_write_warns_of_records_of_unselected_streams(
    engine: ScriptedEngine,
) -> None:
    answers = await write(
        engine, pipeline(), record_batch("x", b"{}", b"{}"), checkpoint("y", "1"), *WRITTEN[:2]
    )
    warning = answers[-1]
    assert warning.emitted_by == "engine"
    assert warning.HasField("ts")
    assert warning.log.level == Log.LEVEL_WARN
    assert warning.log.message == (
        "2 records of the stream 'x' were not written: the pipeline does not select it"
    )
    assert dict(warning.log.data) == {"stream": "x", "dropped_record_count": 2}
    assert not any(answer.HasField("log") for answer in answers[:-1])


@pytest.mark.parametrize("record", [b"", b"null", b"[]", b'"x"', b"{", b'{"id": NaN}', b"\xff"])
async def test_a_record_that_is_no_json_object_is_refused(
    engine: ScriptedEngine, record: bytes
) -> None:
    with pytest.raises(RpcError) as error:
        await write(engine, pipeline(), record_batch("a", b"{}", record))
    assert error.value.code == code_pb2.INVALID_ARGUMENT
    [violation] = error.value.field_violations
    assert violation.field == "message.record_batch.records[1]"
    assert not engine.destination.committed


@pytest.mark.parametrize(
    ("spoiled", "field"),
    [
        (Stream(name="a", primary_key=[FieldPath()]), "primary_key[0].segments"),
        (Stream(name="a"), "primary_key"),
        (Stream(primary_key=[FieldPath(segments=["id"])]), "name"),
        (stream("b"), "name"),
        (stream("\0"), "name"),
    ],
    ids=["empty path", "no key", "no name", "named twice", "NUL"],
)
async def test_a_catalog_that_cannot_be_written_is_refused(
    engine: ScriptedEngine, spoiled: Stream, field: str
) -> None:
    catalog = Message(catalog=Catalog(streams=[stream("b"), spoiled]))
    with pytest.raises(RpcError) as error:
        await write(engine, PipelineConfig(destination=connector()), catalog)
    assert [one.field for one in error.value.field_violations] == [
        f"message.catalog.streams[1].{field}"
    ]


async def test_a_write_reports_a_refused_stream(engine: ScriptedEngine) -> None:
    engine.destination.refuses = frozenset({"a"})
    answers = await write(
        engine, pipeline(), *WRITTEN, record_batch("b", b"{}"), checkpoint("b", "1")
    )
    told = [message.stream_status for message in answers if message.HasField("stream_status")]
    assert told == [started("a").stream_status, errored("a", "a was refused").stream_status]
    assert [one.source_state.stream for one in answers if one.HasField("source_state")] == ["b"]
