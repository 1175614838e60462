"""Reads with poll_events on, and their results."""

import json
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from engine_server.connectors.protocols import SelectedStream
from engine_server.connectors.stripe.config import StripeConfig
from pipesync.v1.state_pb2 import SourceState
from tests.engine_server.connectors.stripe.reading import Reading, config_for, read, selected
from tests.stripe_simulator.simulator import StripeSimulator


def following(simulator: StripeSimulator, **fields: Any) -> StripeConfig:
    """Return the configuration that reads the simulator and follows its events."""
    return config_for(simulator, poll_events=True, **fields)


def streams(*names: str) -> list[SelectedStream]:
    """Return selected streams without time ranges."""
    return [selected(name) for name in names]


def cursor(state: SourceState) -> dict[str, Any]:
    """Return the events cursor of a state."""
    found: dict[str, Any] = json.loads(state.shared)["events"]
    return found


def with_cursor(state: SourceState, **fields: Any) -> SourceState:
    """Return the state with some fields of its cursor replaced."""
    changed = SourceState()
    changed.CopyFrom(state)
    changed.shared = json.dumps({"events": {**cursor(state), **fields}})
    return changed


def without_cursor(state: SourceState) -> SourceState:
    """Return the state without an events cursor."""
    return SourceState(streams=state.streams)


async def follow(
    simulator: StripeSimulator, *names: str, state: SourceState, **request: Any
) -> Reading:
    """Read only events."""
    return await read(
        following(simulator), [], selected=streams(*names), state=state, events_only=True, **request
    )


async def sync(
    simulator: StripeSimulator,
    *names: str,
    state: SourceState | None = None,
    **request: Any,
) -> Reading:
    """Read the history and the events."""
    return await read(following(simulator), streams(*names), state=state, **request)


def until(second: int) -> Timestamp:
    """Return the end of a run at this second."""
    return Timestamp(seconds=second)
