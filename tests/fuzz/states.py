"""State that a request carries: the ending state of a sync, in another shape."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf.message import DecodeError
from hypothesis import strategies as st

from pipesync.v1 import engine_service_pb2 as engine_pb
from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync.v1.state_pb2 import SyncState
from tests.fuzz import rpc
from tests.fuzz.ground import METHODS, Ground
from tests.fuzz.http import byte_edits
from tests.fuzz.json_values import edited, edits
from tests.fuzz.requests import plain
from tests.fuzz.tables import EVENT, as_json

Draw = Callable[[st.SearchStrategy[Any]], Any]
_BATCH = "/pipesync.v1.EngineService/PipelineSyncBatch"
_SYNC = "/pipesync.v1.EngineService/PipelineSync"
_SERVICE = "/pipesync.v1.PipelineService/SyncPipelineBatch"
_PLACES = ("customers", "customers", "global", "global", "destination", "schema", "bytes")


@st.composite
def attempts(draw: Draw) -> dict[str, Any]:
    """Draw a state, the changes to it, and the call that continues from it."""
    place = draw(st.sampled_from(_PLACES))
    return {
        "method": draw(st.sampled_from((_BATCH, _BATCH, _SYNC, _SERVICE))),
        "state": draw(st.sampled_from(("cut", "whole", "events"))),
        "place": place,
        "edits": [list(one) for one in draw(byte_edits if place == "bytes" else edits)],
        "way": draw(st.sampled_from(("", "", "events_only", "reconcile", "inputs", "recent"))),
        "run_id": draw(st.sampled_from(("", "run-1"))),
    }


def capture(ground: Ground) -> dict[str, bytes]:
    """Return the ending states of a cut sync, a whole one and one after events."""
    states: dict[str, bytes] = {}
    state: SyncState | None = None
    for name, limit in (("cut", 1), ("whole", 0), ("events", 0)):
        request: Any = plain(METHODS[_BATCH].input_type)
        request.pipeline.source.config["poll_events"] = True
        request.options.state_limit = limit
        if state is not None:
            request.options.state.CopyFrom(state)
        call: Any = ground.channels["pipesync.v1.EngineService"].unary_unary(_BATCH)
        answer = engine_pb.PipelineSyncBatchResponse()
        answer.ParseFromString(call(ground.prepare(request), timeout=60))
        state = answer.eof.ending_state
        states[name] = state.SerializeToString()
    return states


def run(ground: Ground, attempt: Mapping[str, Any], deadline: float) -> list[str]:
    """Continue from the state."""
    if not ground.states:
        ground.states.update(capture(ground))
    state = SyncState()
    sent = ground.states[attempt["state"]]
    try:
        state.ParseFromString(
            rpc.edited(sent, attempt["edits"]) if attempt["place"] == "bytes" else sent
        )
    except DecodeError:
        return []
    made = attempt["edits"]
    match attempt["place"]:
        case "customers":
            before = state.source.streams["customers"] or "{}"
            state.source.streams["customers"] = _changed(before, made)
        case "global":
            state.source.shared = _changed(state.source.shared or "{}", made)
        case "destination":
            state.destination = _changed(state.destination or "{}", made)
        case "schema":
            state.stream_schemas["customers"] = _changed(
                as_json(state.stream_schemas["customers"]), made
            )
    request: Any = plain(METHODS[attempt["method"]].input_type)
    if isinstance(request, pb.SyncPipelineBatchRequest):
        request.overrides.state.CopyFrom(state)
        request.run_id = attempt["run_id"]
    else:
        request.pipeline.source.config["poll_events"] = True
        request.options.state.CopyFrom(state)
        request.options.run_id = attempt["run_id"]
        match attempt["way"]:
            case "events_only":
                request.options.events_only = True
            case "reconcile":
                request.options.reconcile = True
            case "inputs":
                request.inputs.add().event_json = as_json(EVENT).encode()
            case "recent":
                request.inputs.add().recent_events.SetInParent()
    return [*rpc.run(ground, rpc.attempt_of(attempt["method"], request), deadline).faults]


def _changed(text: str, made: Any) -> str:
    return as_json(edited(json.loads(text), made)).encode(errors="replace").decode()
