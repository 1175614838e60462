"""What the engine does besides syncing, over the wire."""

from collections.abc import AsyncIterator

import pytest

from pipesync.v1 import engine_service_pb2 as pb
from pipesync.v1.catalog_pb2 import Catalog, PipelineConfig, StreamSelection
from pipesync.v1.message_pb2 import Message
from pipesync.v1.progress_pb2 import ConnectionStatus
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
    request = pb.PipelineCheckRequest(pipeline=pipeline(), only=only)
    messages = [one.message async for one in engine.client.pipeline_check(request)]
    assert [message.emitted_by for message in messages] == EMITTERS[only]
    for message in messages:
        assert message.connection_status.status == ConnectionStatus.STATUS_SUCCEEDED
        assert message.ts.seconds > 0


@each_side
async def test_a_setup_tells_the_destination_its_streams_and_the_caller_what_to_store(
    engine: ScriptedEngine, only: pb.ConnectorSide.ValueType
) -> None:
    request = pb.PipelineSetupRequest(
        pipeline=pipeline([StreamSelection(name="b"), StreamSelection(name="a")]), only=only
    )
    messages = [one.message async for one in engine.client.pipeline_setup(request)]
    assert [message.emitted_by for message in messages] == EMITTERS[only]
    if only != DESTINATION:
        assert messages[0].control.source_config["password"] == "made by setup"
    if only != SOURCE:
        assert messages[-1].log.message == "made b, a"


@each_side
async def test_a_teardown_touches_the_sides_it_is_asked_to(
    engine: ScriptedEngine, only: pb.ConnectorSide.ValueType
) -> None:
    request = pb.PipelineTeardownRequest(pipeline=pipeline(), only=only)
    messages = [one.message async for one in engine.client.pipeline_teardown(request)]
    assert [message.emitted_by for message in messages] == EMITTERS[only]
    assert all(message.log.message.endswith("torn down") for message in messages)


async def test_one_side_can_be_asked_without_the_other(engine: ScriptedEngine) -> None:
    for config, only in (
        (PipelineConfig(destination=connector()), DESTINATION),
        (PipelineConfig(source=connector()), SOURCE),
    ):
        request = pb.PipelineCheckRequest(pipeline=config, only=only)
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
async def test_a_write_answers_with_what_was_committed_but_for_the_records(
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


async def test_a_write_says_which_stream_was_refused(engine: ScriptedEngine) -> None:
    engine.destination.refuses = frozenset({"a"})
    answers = await write(
        engine, pipeline(), *WRITTEN, record_batch("b", b"{}"), checkpoint("b", "1")
    )
    told = [message.stream_status for message in answers if message.HasField("stream_status")]
    assert told == [started("a").stream_status, errored("a", "a was refused").stream_status]
    assert [one.source_state.stream for one in answers if one.HasField("source_state")] == ["b"]
