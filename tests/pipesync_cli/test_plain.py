"""Conversion of messages to plain values and back."""

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from pipesync.v1.catalog_pb2 import (
    SYNC_MODE_INCREMENTAL,
    Connector,
    PipelineConfig,
    StreamSelection,
    TimeRange,
)
from pipesync.v1.message_pb2 import Message, RecordBatch
from pipesync.v1.pipeline_service_pb2 import (
    DESIRED_STATUS_PAUSED,
    PIPELINE_STATUS_READY,
    Pipeline,
    SyncPipelineRequest,
)
from pipesync.v1.progress_pb2 import Progress, RunStatus, StreamProgress
from pipesync.v1.state_pb2 import Eof
from pipesync_cli.plain import enum_to_plain, from_plain, to_plain


def test_a_round_trip_changes_nothing() -> None:
    pipeline = Pipeline(
        id="orders",
        config=PipelineConfig(
            source=Connector(type="stripe"),
            streams=[
                StreamSelection(
                    name="customers",
                    sync_mode=SYNC_MODE_INCREMENTAL,
                    fields=["id", "email"],
                    backfill_limit=2**53 + 1,
                    time_range=TimeRange(gte=Timestamp(seconds=5)),
                )
            ],
        ),
        status=PIPELINE_STATUS_READY,
        progress=Progress(
            streams={"customers": StreamProgress(status=StreamProgress.STATUS_ERRORED)}
        ),
    )
    pipeline.config.source.config.update({"rate_limit": 5, "share": 0.5, "ids": ["a"], "on": True})
    plain = to_plain(pipeline)
    assert plain["status"] == "ready"
    assert plain["config"]["source"]["config"] == {
        "rate_limit": 5,
        "share": 0.5,
        "ids": ["a"],
        "on": True,
    }
    assert list(plain["config"]["source"]["config"]) == ["ids", "on", "rate_limit", "share"]
    assert isinstance(plain["config"]["source"]["config"]["rate_limit"], int)
    assert plain["config"]["streams"][0]["backfill_limit"] == 2**53 + 1
    assert plain["config"]["streams"][0]["sync_mode"] == "incremental"
    assert plain["config"]["streams"][0]["time_range"] == {"gte": "1970-01-01T00:00:05Z"}
    assert plain["progress"]["streams"]["customers"]["status"] == "errored"
    assert from_plain(plain, Pipeline()) == pipeline


def test_full_enum_names_and_protobuf_forms_are_read_too() -> None:
    read = from_plain({"desired_status": "DESIRED_STATUS_PAUSED"}, Pipeline())
    assert read.desired_status == DESIRED_STATUS_PAUSED
    assert from_plain({"time_limit": "2.5s"}, SyncPipelineRequest()).time_limit == Duration(
        seconds=2, nanos=500_000_000
    )


def test_defaults_are_included_on_request() -> None:
    assert to_plain(Eof()) == {}
    expected = {
        "status": "unspecified",
        "has_more": False,
        "failure_message": "",
        "dead_letters": [],
        "limit_message": "",
        "held_rejected_record_count": 0,
    }
    assert to_plain(Eof(), defaults=True).items() >= expected.items()


def test_a_value_of_a_newer_contract_stays_a_number() -> None:
    assert enum_to_plain(RunStatus.DESCRIPTOR, 99) == 99


def test_records_are_their_json_text() -> None:
    message = Message(record_batch=RecordBatch(stream="s", records=[b'{"a": 1.0}']))
    assert to_plain(message) == {"record_batch": {"stream": "s", "records": ['{"a": 1.0}']}}
