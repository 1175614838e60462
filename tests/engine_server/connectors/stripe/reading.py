"""Reads through the Stripe source like the engine, and records the result."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from google.protobuf.timestamp_pb2 import Timestamp

from engine_server import exact_json
from engine_server.connectors.protocols import ReadRequest, SelectedStream
from engine_server.connectors.stripe.api.retry import RetryPolicy
from engine_server.connectors.stripe.catalog.streams import load_resources
from engine_server.connectors.stripe.config import StripeConfig
from engine_server.connectors.stripe.source import StripeSource
from pipesync.v1.catalog_pb2 import StreamSelection, TimeRange
from pipesync.v1.message_pb2 import Log, StreamStatus
from pipesync.v1.state_pb2 import DeadLetter, SourceState
from tests.stripe_simulator.simulator import StripeSimulator

# As many attempts as in production, with short delays.
QUICK = RetryPolicy(first_delay=0.001, longest_delay=0.01, timeout=5)


@dataclass(kw_only=True)
class Reading:
    """The result of one read: counts by (stream, id), the last checkpoints, the streams' statuses.

    It stands for the engine and for a destination that commits everything at once.
    """

    ids: Counter[tuple[str, str]] = field(default_factory=Counter)
    records: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    state: SourceState = field(default_factory=SourceState)
    checkpoints: int = 0
    excluded: list[str] = field(default_factory=list)
    statuses: list[StreamStatus] = field(default_factory=list)
    logs: list[Log] = field(default_factory=list)
    dead_letters: list[DeadLetter] = field(default_factory=list)

    def turns(self, stream: str) -> list[str]:
        """Return the statuses of the stream in order, without ranges."""
        names = [s.WhichOneof("status") for s in self.statuses if s.stream == stream]
        return [name for name in names if name and name != "range_completed"]

    def ids_of(self, stream: str) -> set[str]:
        """Return the ids read of a stream."""
        return {object_id for name, object_id in self.ids if name == stream}


def config_for(simulator: StripeSimulator, **fields: Any) -> StripeConfig:
    """Return the configuration to read the simulator, paced like Stripe itself."""
    return StripeConfig.model_validate(
        {
            "api_key": simulator.api_key,
            "base_url": simulator.base_url,
            "account_id": simulator.account_id,
            "rate_limit": 10_000,
            **fields,
        }
    )


def selected(
    name: str, *, gte: int | None = None, lt: int | None = None, backfill_limit: int = 0
) -> SelectedStream:
    """Return a stream, possibly with a window."""
    selection = StreamSelection(name=name, backfill_limit=backfill_limit)
    if gte is not None:
        selection.time_range.gte.seconds = gte
    if lt is not None:
        selection.time_range.lt.seconds = lt
    return SelectedStream(stream=load_resources()[name].stream, selection=selection)


# The sources of each test, by the event loop of the test.
_SOURCES: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[RetryPolicy, StripeSource]] = (
    WeakKeyDictionary()
)


def source_of_test(policy: RetryPolicy = QUICK) -> StripeSource:
    """Return the source of the running test, whose reads share clocks and rates as in an engine."""
    sources = _SOURCES.setdefault(asyncio.get_running_loop(), {})
    return sources.setdefault(policy, StripeSource(policy))


async def read(
    config: StripeConfig,
    streams: Sequence[SelectedStream],
    *,
    state: SourceState | None = None,
    stop_after: int | None = None,
    policy: RetryPolicy = QUICK,
    on_checkpoint: Callable[[Reading], None] | None = None,
    **request: Any,
) -> Reading:
    """Read to the end, or close after ``stop_after`` checkpoints."""
    reading = Reading()
    if state is not None:
        reading.state.CopyFrom(state)
    read_request = ReadRequest(streams=streams, state=state or SourceState(), **request)
    async with aclosing(source_of_test(policy).read(config, read_request)) as messages:
        async for message in messages:
            match message.WhichOneof("payload"):
                case "record_batch":
                    batch = message.record_batch
                    for record in map(exact_json.decode, batch.records):
                        reading.ids[batch.stream, record["id"]] += 1
                        reading.records[batch.stream, record["id"]] = record
                case "source_state":
                    checkpoint = message.source_state
                    if checkpoint.stream:
                        reading.state.streams[checkpoint.stream] = checkpoint.data
                    else:
                        reading.state.shared = checkpoint.data
                        reading.excluded = list(checkpoint.excluded_streams)
                    reading.checkpoints += 1
                    if on_checkpoint is not None:
                        on_checkpoint(reading)
                    if reading.checkpoints == stop_after:
                        break
                case "barrier":
                    # Messages are committed as they arrive.
                    read_request.barriers.passed(message.barrier)
                case "dead_letter":
                    reading.dead_letters.append(message.dead_letter)
                case "log":
                    reading.logs.append(message.log)
                case "stream_status":
                    reading.statuses.append(message.stream_status)
    return reading


def time_range(gte: int, lt: int) -> TimeRange:
    """Return a range of whole seconds."""
    return TimeRange(gte=Timestamp(seconds=gte), lt=Timestamp(seconds=lt))
