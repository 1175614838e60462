"""Commands on connectors."""

import json

from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct

from pipesync.v1 import pipeline_service_pb2 as contract
from pipesync.v1.catalog_pb2 import Catalog, Connector, FieldPath, Spec, Stream
from pipesync.v1.engine_service_pb2 import (
    CONNECTOR_SIDE_DESTINATION,
    CONNECTOR_SIDE_SOURCE,
    ConnectorInfo,
)
from pipesync.v1.message_pb2 import Log, Message
from pipesync.v1.progress_pb2 import ConnectionStatus, UnreadableStream
from tests.pipesync_cli.program import pipelines_of
from tests.pipesync_cli.scripted_service import scripted_service


def schema(*names: str, required: tuple[str, ...] = ()) -> Struct:
    """Return a JSON Schema of an object with these properties."""
    return ParseDict(
        {"type": "object", "properties": {name: {} for name in names}, "required": list(required)},
        Struct(),
    )


def facts(**values: str) -> Struct:
    """Return the metadata of a stream."""
    return ParseDict(values, Struct())


CATALOG = Message(
    catalog=Catalog(
        streams=[
            Stream(
                name="customers",
                primary_key=[FieldPath(segments=["id"]), FieldPath(segments=["owner", "id"])],
                json_schema=schema("id", "email"),
                supports_time_range=True,
                metadata=facts(note="without those of test clocks"),
            ),
            Stream(
                name="files",
                primary_key=[FieldPath(segments=["id"])],
                json_schema=schema("id"),
            ),
        ]
    )
)


async def test_connectors_are_listed_with_their_settings() -> None:
    service = scripted_service()
    spec = Spec(config_schema=schema("b", "api_key", "account_id", required=("api_key",)))
    service.connectors = [
        ConnectorInfo(side=CONNECTOR_SIDE_SOURCE, type="stripe", spec=spec),
        ConnectorInfo(side=CONNECTOR_SIDE_DESTINATION, type="postgres", spec=Spec()),
    ]
    outcome = await pipelines_of(service, "connectors", "source")
    assert outcome.lines == [
        "SIDE         TYPE      SETTINGS",
        "source       stripe    api_key*, account_id, b",
        "destination  postgres",
    ]
    assert service.requests == [contract.ListPipelineConnectorsRequest(side=CONNECTOR_SIDE_SOURCE)]
    raw = await pipelines_of(service, "connectors", "--raw")
    assert json.loads(raw.lines[0])["spec"]["config_schema"]["required"] == ["api_key"]


async def test_discover_accepts_a_pipeline_or_a_source() -> None:
    service = scripted_service()
    service.messages = [CATALOG]
    outcome = await pipelines_of(service, "discover", "orders")
    assert outcome.lines == [
        "STREAM     KEY           FIELDS  TIME RANGES  NOTE",
        "customers  id, owner.id  2       yes          without those of test clocks",
        "files      id            1       no",
    ]
    raw = await pipelines_of(
        service, "discover", "--source", "stripe", "--source-config", "api_key=k", "--raw"
    )
    assert [json.loads(line)["name"] for line in raw.lines] == ["customers", "files"]
    source = Connector(type="stripe")
    source.config["api_key"] = "k"
    assert service.requests == [
        contract.DiscoverSourceRequest(pipeline_id="orders"),
        contract.DiscoverSourceRequest(source=source),
    ]


async def test_check_fails_when_a_connection_does() -> None:
    service = scripted_service()
    service.messages = [
        Message(
            emitted_by="source/stripe",
            connection_status=ConnectionStatus(status=ConnectionStatus.STATUS_SUCCEEDED),
        ),
        Message(
            emitted_by="destination/postgres",
            connection_status=ConnectionStatus(
                status=ConnectionStatus.STATUS_FAILED, message="connection refused"
            ),
        ),
    ]
    outcome = await pipelines_of(service, "check", "orders", "--only", "destination")
    assert outcome.code == 1
    assert outcome.lines == [
        "source/stripe succeeded",
        "destination/postgres failed: connection refused",
    ]
    assert service.requests == [
        contract.CheckPipelineRequest(pipeline_id="orders", side=CONNECTOR_SIDE_DESTINATION)
    ]


async def test_check_has_a_line_for_each_notice() -> None:
    service = scripted_service()
    status = ConnectionStatus(
        status=ConnectionStatus.STATUS_SUCCEEDED,
        message="reached account acct_1",
        notices=["The engine's clock is 15 s ahead of Stripe's."],
    )
    service.messages = [Message(emitted_by="source/stripe", connection_status=status)]
    outcome = await pipelines_of(service, "check", "orders")
    assert (outcome.code, outcome.stderr) == (0, "")
    assert outcome.lines == [
        "source/stripe succeeded: reached account acct_1",
        "source/stripe note: The engine's clock is 15 s ahead of Stripe's.",
    ]


async def test_check_has_a_line_for_each_stream_that_cannot_be_read() -> None:
    service = scripted_service()
    status = ConnectionStatus(
        status=ConnectionStatus.STATUS_SUCCEEDED,
        message="may read 1 of 3 selected streams",
        unreadable_streams=[
            UnreadableStream(stream="issuing_cards", reason="Issuing is not\nset up."),
            UnreadableStream(stream="payouts", reason="The key may not."),
        ],
        notices=["events are rendered in 2020-08-27"],
    )
    service.messages = [Message(emitted_by="source/stripe", connection_status=status)]
    outcome = await pipelines_of(service, "check", "orders")
    assert (outcome.code, outcome.stderr) == (0, "")
    assert outcome.lines == [
        "source/stripe succeeded: may read 1 of 3 selected streams",
        "source/stripe cannot read issuing_cards: Issuing is not set up.",
        "source/stripe cannot read payouts: The key may not.",
        "source/stripe note: events are rendered in 2020-08-27",
    ]


async def test_setup_logs_its_actions_on_stderr() -> None:
    service = scripted_service()
    data = Struct()
    data.update({"table": "customers"})
    service.messages = [
        Message(
            emitted_by="destination/postgres",
            log=Log(level=Log.LEVEL_INFO, message="table created", data=data),
        )
    ]
    outcome = await pipelines_of(service, "setup", "orders")
    assert (outcome.code, outcome.stdout) == (0, "orders set up\n")
    assert outcome.stderr == "info: destination/postgres: table created table=customers\n"
