"""Usual values of fields, by their places or names, and the values of plain requests."""

import base64
import json
from collections.abc import Mapping
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from hypothesis import strategies as st

from engine_server.connectors.registry import ConnectorRegistry
from pipesync.v1 import engine_service_pb2 as engine_pb
from pipesync.v1.catalog_pb2 import FieldPath
from pipesync.v1.engine_service_pb2 import CONNECTOR_SIDE_DESTINATION, CONNECTOR_SIDE_SOURCE
from tests.fuzz.json_values import described, edited, edits, odd_json, to_struct
from tests.fuzz.placeholders import API_KEY, BASE_URL, DATABASE_URL, SIGNATURE, WEBHOOK_SECRET

# Stored pipelines, which exist before each example.
STORED, PAUSED = "stored", "paused"


def _specs() -> tuple[Mapping[str, Any], Mapping[str, Any], Mapping[str, Any]]:
    registry = ConnectorRegistry.installed()
    source = registry.describe(CONNECTOR_SIDE_SOURCE, "stripe").spec
    destination = registry.describe(CONNECTOR_SIDE_DESTINATION, "postgres").spec
    return (
        _plain(source.config_schema),
        _plain(source.stream_state_schema),
        _plain(destination.config_schema),
    )


def _plain(struct: Struct) -> Any:
    return MessageToDict(struct)


SOURCE_SCHEMA, CHECKPOINT_SCHEMA, DESTINATION_SCHEMA = _specs()
EVENT: Mapping[str, Any] = {
    "id": "evt_1",
    "object": "event",
    "api_version": None,
    "type": "customer.updated",
    "created": 1_700_000_000,
    "livemode": False,
    "data": {
        "object": {"id": "cus_1", "object": "customer", "created": 1_690_000_000, "email": None},
        "previous_attributes": {"email": "a@example.com"},
    },
}
CURSOR: Mapping[str, Any] = {
    "events": {
        "since": 1_700_000_000,
        "applied": {"1700000000": ["evt_1"]},
        "followed": ["customers"],
        "behind": {"customers": 1_700_000_000},
    },
    "failing": {"evt_1": {"attempts": 1}},
    "handled": {"evt_2": 1_700_000_000},
}
CHECKPOINT: Mapping[str, Any] = {
    "accounted_range": {"lt": 1_700_000_000, "gte": 1_600_000_000},
    "remaining": [{"gte": 1_650_000_000, "lt": 1_700_000_000, "cursor": "cus_1"}],
    "record_count": 1,
    "backfill_lt": 1_700_000_000,
}


def as_json(value: Any) -> str:
    """Return the value as JSON; NaN and lone surrogates as most encoders write them."""
    return json.dumps(value)


_events = (
    st.just(EVENT)
    | edits.map(lambda made: edited(EVENT, made))
    | st.integers(1, 50).map(lambda number: {**EVENT, "id": f"evt_{number}"})
)
_checkpoints = (
    st.just(CHECKPOINT)
    | described(CHECKPOINT_SCHEMA)
    | edits.map(lambda made: edited(CHECKPOINT, made))
).map(as_json)
_cursors = (st.just(CURSOR) | edits.map(lambda made: edited(CURSOR, made))).map(as_json)
_source_configs = st.builds(
    lambda made, base: {**made, **base},
    described(SOURCE_SCHEMA)
    .filter(lambda made: isinstance(made, dict))
    .map(
        # A low rate would keep every call waiting, as it should.
        lambda made: {name: one for name, one in made.items() if name != "rate_limit"}
    ),
    st.sampled_from(
        (
            {"api_key": API_KEY, "base_url": BASE_URL},
            {"api_key": API_KEY, "base_url": BASE_URL, "websocket": False, "poll_events": True},
            {"base_url": BASE_URL},
            {},
        )
    ),
)
_destination_configs = st.builds(
    lambda made, base: {**made, **base},
    described(DESTINATION_SCHEMA).filter(lambda made: isinstance(made, dict)),
    st.sampled_from(
        (
            {
                "url": DATABASE_URL,
                **dict.fromkeys(("host", "port", "user", "database", "password")),
            },
            {"url": DATABASE_URL},
            {},
        )
    ),
)
# Mostly a configuration that leads to the simulator.
SOURCE_CONFIG = {
    "api_key": API_KEY,
    "base_url": BASE_URL,
    "account_id": "acct_simulator",
    "webhook_secret": WEBHOOK_SECRET,
}
DESTINATION_CONFIG = {"url": DATABASE_URL}
_usual_source = st.sampled_from(
    [to_struct({**SOURCE_CONFIG, **more}) for more in ({}, {}, {"poll_events": True})]
) | _source_configs.map(to_struct)
_usual_destination = st.just(to_struct(DESTINATION_CONFIG)) | _destination_configs.map(to_struct)


def _as_struct(made: Any) -> Struct:
    return to_struct(made if isinstance(made, dict) else {"x": made})


def _token(position: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(position).encode()).decode()


_page_tokens = (
    st.just("")
    | st.sampled_from(
        (
            _token(["stored"]),
            _token(["2024-01-01T00:00:00+00:00", "x"]),
            _token(["0001-01-01T00:00:00+14:00", "x"]),
            _token(["9999-12-31T23:59:59-14:00", "x"]),
            _token(["infinity", "9" * 50]),
            _token(["1", "2"]),
        )
    )
    | st.lists(st.text(max_size=10) | st.integers().map(str) | odd_json, max_size=3).map(_token)
)

_signed = st.sampled_from(
    (
        {"stripe-signature": SIGNATURE},
        {"stripe-signature": SIGNATURE},
        {},
        {"Stripe-Signature": "é"},
    )
)

# By message and field, or by field.
USUAL: Mapping[str, st.SearchStrategy[Any]] = {
    "id": st.sampled_from((STORED, STORED, STORED, PAUSED, "absent-1")),
    "pipeline_id": st.sampled_from((STORED, STORED, STORED, PAUSED, "absent-1")),
    "CreatePipelineRequest.pipeline.id": st.sampled_from(("", "made-1", STORED)),
    "UpdatePipelineRequest.pipeline.id": st.just(STORED),
    "type": st.sampled_from(("stripe", "postgres", "stipe")),
    "source.type": st.just("stripe"),
    "destination.type": st.just("postgres"),
    "source.config": _usual_source,
    "destination.config": _usual_destination,
    "source_config": _usual_source,
    "destination_config": _usual_destination,
    "StreamSelection.name": st.sampled_from(("customers", "customers", "products")),
    "stream": st.sampled_from(("customers", "customers", "products")),
    "excluded_streams": st.just("customers"),
    "fields": st.sampled_from(("email", "name")),
    "segments": st.just("id"),
    "Stream.name": st.sampled_from(("customers", "notes")),
    "Stream.json_schema": (
        st.just({"properties": {"text": {"type": "string"}}, "type": "object"})
        | edits.map(lambda made: edited({"properties": {"text": {"type": "string"}}}, made))
    ).map(_as_struct),
    "records": (
        st.just(b'{"id": "1", "created": 1}')
        | edits.map(lambda made: as_json(edited({"id": "1", "text": "a"}, made)).encode())
    ),
    "SourceState.streams": _checkpoints,
    "StateCheckpoint.data": _checkpoints | _cursors,
    "SourceState.shared": _cursors,
    "SyncState.destination": st.just("") | odd_json.map(as_json),
    "event_json": _events.map(lambda made: as_json(made).encode()),
    "SourceInput.event": _events.map(_as_struct),
    "body": _events.map(lambda made: as_json(made).encode()),
    "headers": _signed,
    "page_token": _page_tokens,
    "update_mask.paths": st.sampled_from(
        ("config.source", "config.destination", "config.streams", "desired_status", "sync_policy")
    ),
    "event_ids": st.sampled_from(("evt_1", "evt_2")),
    "run_id": st.sampled_from(("", "run-1", "run-2")),
    "etag": st.just(""),
    "desired_status": st.sampled_from((0, 1, 1, 2)),
    "sync_policy": st.sampled_from((0, 1, 1)),
    # A validated removal is only reported; a real one is undone after the example.
    "validate_only": st.booleans(),
}

# The request of a caller without special needs; fields that are not listed are left out.
PLAIN: Mapping[str, Any] = {
    "id": STORED,
    "pipeline_id": STORED,
    "CreatePipelineRequest.pipeline.id": "",
    "UpdatePipelineRequest.pipeline.id": STORED,
    "GetConnectorRequest.side": 1,
    "GetConnectorRequest.type": "stripe",
    "source.type": "stripe",
    "destination.type": "postgres",
    "source.config": to_struct(SOURCE_CONFIG),
    "destination.config": to_struct(DESTINATION_CONFIG),
    "StreamSelection.name": "customers",
    "update_mask.paths": "config.streams",
    "body": as_json(EVENT).encode(),
    "headers": {"stripe-signature": SIGNATURE},
    "ReplayWebhookEventsRequest.all_dead_lettered": True,
    "PipelineWriteRequest.pipeline.source": None,
    # Tables of its own: its streams have the columns of its own catalogs.
    "PipelineWriteRequest.pipeline.destination.config": to_struct(
        {**DESTINATION_CONFIG, "schema": "written"}
    ),
}
# Messages that plain requests have in them.
PLAIN_MESSAGES = frozenset(
    ("pipeline", "config", "source", "destination", "streams", "delivery", "update_mask")
)

# The messages after the first in a client-streaming call.
_CATALOG = engine_pb.PipelineWriteRequest()
_CATALOG.message.catalog.streams.add(
    name="customers",
    primary_key=[FieldPath(segments=["id"])],
    json_schema=to_struct({"properties": {"text": {"type": "string"}}}),
)
_RECORD = engine_pb.PipelineWriteRequest()
_RECORD.message.record_batch.stream = "customers"
_RECORD.message.record_batch.records.append(b'{"id": "1"}')
AROUND: Mapping[str, tuple[Message, ...]] = {"PipelineWriteRequest": (_CATALOG, _RECORD)}
