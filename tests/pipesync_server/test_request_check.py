"""Rules for every request, field by field."""

import math
from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf import descriptor_pool

from pipesync.v1 import engine_service_pb2 as engine_pb
from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync.v1.catalog_pb2 import Stream
from pipesync_server import field_rules, request_check
from pipesync_server.request_check import check_request, text_fault
from tests.messages import struct

# A number that no enum of the contract has.
UNKNOWN: Any = 99


def sync_request() -> engine_pb.PipelineSyncRequest:
    request = engine_pb.PipelineSyncRequest()
    request.pipeline.source.type = "stripe"
    request.pipeline.source.config.update({"api_key": "sk_1", "pem": "a\nb\n"})
    request.pipeline.streams.add(name="customers", fields=["email"], backfill_limit=3)
    request.options.run_id = "nightly, 2026"
    request.options.time_limit.seconds = 60
    state = request.options.state
    state.source.streams["customers"] = '{"text": "\0 is the source\'s to refuse"}'
    state.sync_run.time_ceiling.GetCurrentTime()
    state.sync_run.progress.streams["customers"].record_count = 7
    state.positions[""].number = 2**62
    request.inputs.add(event_json=b"\0\xff")
    return request


async def faults(request: engine_pb.PipelineSyncRequest) -> dict[str, str]:
    return {one.field: one.description for one in await check_request(request)}


async def test_an_ordinary_request_passes() -> None:
    assert await faults(sync_request()) == {}


def test_every_rule_names_a_field_of_the_contract() -> None:
    """A rule with a misspelled field name would silently apply to none."""
    pool = descriptor_pool.Default()
    names = {
        name
        for module in (field_rules, request_check)
        for rules in vars(module).values()
        if isinstance(rules, frozenset | dict)
        for name in rules
        if isinstance(name, str) and name.startswith("pipesync.v1.")
    }
    assert "pipesync.v1.SourceState.shared" in names
    for name in names:
        owner, _, field = name.rpartition(".")
        try:
            pool.FindMessageTypeByName(name)
        except KeyError:
            assert field in pool.FindMessageTypeByName(owner).fields_by_name, name


Spoil = Callable[[engine_pb.PipelineSyncRequest], object]


@pytest.mark.parametrize(
    ("spoil", "field", "complaint"),
    [
        (
            lambda request: setattr(request.options, "run_id", "a\0"),
            "options.run_id",
            "control characters",
        ),
        (
            lambda request: setattr(request.options, "run_id", "x" * 256),
            "options.run_id",
            "has 256 characters: at most 255",
        ),
        (
            lambda request: request.pipeline.streams[0].fields.append("a\r\n"),
            "pipeline.streams[0].fields[1]",
            "control characters",
        ),
        (
            lambda request: setattr(request.pipeline.streams[0], "sync_mode", 9),
            "pipeline.streams[0].sync_mode",
            "9 is no value of SyncMode",
        ),
        (
            lambda request: setattr(request.options.time_limit, "nanos", -1),
            "options.time_limit",
            "must be a duration",
        ),
        (
            lambda request: setattr(
                request.pipeline.streams[0].time_range.gte, "seconds", 253_402_300_800
            ),
            "pipeline.streams[0].time_range.gte",
            "years 1 to 9999",
        ),
        (
            lambda request: request.pipeline.source.config.update({"a": {"b": [math.inf]}}),
            "pipeline.source.config.a.b[0]",
            "finite",
        ),
        (
            lambda request: request.pipeline.source.config.update({"a": "\0"}),
            "pipeline.source.config.a",
            "NUL",
        ),
        (
            lambda request: request.pipeline.source.config.CopyFrom(struct({"a": [0] * 10_000})),
            "pipeline.source.config.a[9997]",
            "one value more than the 10000",
        ),
        (
            lambda request: request.pipeline.source.config.update({"a": "x" * 1024 * 1024}),
            "pipeline.source.config",
            "at most 1048576",
        ),
        (
            lambda request: [request.pipeline.streams.add() for _ in range(1_000)],
            "pipeline.streams",
            "has 1001 items, and must be at most 1000",
        ),
        (
            lambda request: [request.inputs.add() for _ in range(1_000)],
            "inputs",
            "at most 1000",
        ),
        (
            lambda request: [request.pipeline.streams.add(fields=["x"] * 1_000) for _ in range(10)],
            "pipeline.streams",
            "name 10001 fields",
        ),
        (
            lambda request: setattr(
                request.options.state.sync_run.progress.streams["customers"], "record_count", -1
            ),
            "options.state.sync_run.progress.streams[customers].record_count",
            "must be 0 to",
        ),
        (
            lambda request: setattr(
                request.options.state.sync_run, "empty_request_count", 2**31 - 1
            ),
            "options.state.sync_run.empty_request_count",
            "must be 0 to 100",
        ),
        (
            lambda request: setattr(request.options.state.positions["\0"], "epoch", "x"),
            "options.state.positions",
            "control characters",
        ),
        (
            lambda request: request.options.state.source.streams.update(
                {"customers": "[" * (2**20 + 1)}
            ),
            "options.state.source.streams[customers]",
            "has 1048577 characters: at most 1048576",
        ),
        (
            lambda request: request.options.state.source.streams.update(
                {f"s{number}": "[" * 2**20 for number in range(5)}
            ),
            "options.state.source.streams",
            "at most 4194304 are taken",
        ),
        (
            lambda request: setattr(request.options.state.source, "shared", "[" * (2**20 + 1)),
            "options.state.source.shared",
            "at most 1048576",
        ),
        (
            lambda request: setattr(request.options.state, "destination", "[" * (2**20 + 1)),
            "options.state.destination",
            "at most 1048576",
        ),
        (
            lambda request: setattr(request.inputs[0], "event_json", b"[" * (2**20 + 1)),
            "inputs[0].event_json",
            "has 1048577 bytes: at most 1048576",
        ),
        (
            lambda request: setattr(request.inputs[0].webhook, "body", b"[" * (2**20 + 1)),
            "inputs[0].webhook",
            "has 1048577 bytes: at most 1048576",
        ),
        (
            lambda request: request.inputs[0].event.update({"x": "x" * 2**20}),
            "inputs[0].event",
            "at most 1048576",
        ),
        (
            lambda request: request.inputs[0].event.update({"x": [0] * 60_000}),
            "inputs[0].event.x[49997]",
            "one value more than the 50000",
        ),
    ],
    ids=range(24),
)
async def test_a_violation_is_named(spoil: Spoil, field: str, complaint: str) -> None:
    request = sync_request()
    spoil(request)
    found = await faults(request)
    assert list(found) == [field]
    assert complaint in found[field]


async def test_at_most_a_hundred_violations_are_named() -> None:
    request = sync_request()
    request.options.run_id = "\0"
    request.pipeline.streams.extend(
        [engine_pb.PipelineSyncRequest().pipeline.streams.add(name="\0") for _ in range(500)]
    )
    found = await check_request(request)
    assert len(found) == 100
    assert found[0].field == "pipeline.streams[1].name"


async def test_output_only_fields_are_not_checked() -> None:
    pipeline = pb.Pipeline(id="first", status=UNKNOWN)
    request = pb.UpdatePipelineRequest(pipeline=pipeline)
    request.pipeline.progress.elapsed_ms = -1
    assert await check_request(request) == []


async def test_violations_begin_with_the_path_of_the_message() -> None:
    request = pb.CreatePipelineRequest(pipeline=pb.Pipeline(desired_status=UNKNOWN))
    [fault] = await check_request(request, "create")
    assert fault.field == "create.pipeline.desired_status"


@pytest.mark.parametrize(
    ("spoil", "field", "complaint"),
    [
        (lambda stream: declare(stream, 2_001), "json_schema", "has 2001 properties: at most 2000"),
        (
            lambda stream: stream.json_schema.update({"x": "x" * 2**20}),
            "json_schema",
            "at most 1048576 are taken",
        ),
        (
            lambda stream: stream.json_schema.update({"x": [0] * 30_000}),
            "json_schema.x[19997]",
            "one value more than the 20000",
        ),
        (
            lambda stream: [stream.primary_key.add(segments=["a"]) for _ in range(11)],
            "primary_key",
            "has 11 items, and must be at most 10",
        ),
        (
            lambda stream: stream.primary_key.add(segments=["a"] * 11),
            "primary_key[0].segments",
            "has 11 items, and must be at most 10",
        ),
    ],
)
async def test_the_size_of_a_catalog_is_limited(
    spoil: Callable[[Stream], object], field: str, complaint: str
) -> None:
    request = engine_pb.PipelineWriteRequest()
    spoil(request.message.catalog.streams.add(name="s"))
    [fault] = await check_request(request)
    assert fault.field == f"message.catalog.streams[0].{field}"
    assert complaint in fault.description


@pytest.mark.parametrize(
    ("streams", "properties", "complaint"),
    [(11, 2_000, "have 22000 properties: at most 20000"), (1_001, 1, "has 1001 items")],
)
async def test_the_total_size_of_a_catalogs_streams_is_limited(
    streams: int, properties: int, complaint: str
) -> None:
    request = engine_pb.PipelineWriteRequest()
    for number in range(streams):
        declare(request.message.catalog.streams.add(name=f"s{number}"), properties)
    [fault] = await check_request(request)
    assert fault.field == "message.catalog.streams"
    assert complaint in fault.description


def declare(stream: Stream, count: int) -> None:
    stream.json_schema.update({"properties": {f"p{number}": {} for number in range(count)}})


async def test_events_may_hold_any_json() -> None:
    request = engine_pb.PipelineSyncRequest()
    request.inputs.add().event.CopyFrom(struct({"text": "\0"}))
    assert await check_request(request) == []


@pytest.mark.parametrize("text", ["", "plain", "é 漢 😀", "\u202e", "a\u00a0b"])
def test_a_text_without_control_characters_passes(text: str) -> None:
    assert text_fault(text) == ""


@pytest.mark.parametrize("text", ["\0", "\n", "\x1b[0m", "\x7f", "\x85", "x" * 1025])
def test_a_text_with_control_characters_or_too_long_fails(text: str) -> None:
    assert text_fault(text)
