"""Reads through the Stripe source as the engine would, and keeps what came out."""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from engine_server import exact_json
from engine_server.connectors.protocols import ReadRequest, SelectedStream
from engine_server.connectors.stripe.catalog import load_resources
from engine_server.connectors.stripe.config import StripeConfig
from engine_server.connectors.stripe.retry import RetryPolicy
from engine_server.connectors.stripe.source import StripeSource
from pipesync.v1.catalog_pb2 import StreamSelection, TimeRange
from pipesync.v1.message_pb2 import Log, StreamStatus
from pipesync.v1.state_pb2 import DeadLetter, SourceState
from tests.stripe_simulator.simulator import StripeSimulator

# As many attempts as for real, but no test waits for them.
QUICK = RetryPolicy(first_delay=0.001, longest_delay=0.01, timeout=5)


@dataclass(kw_only=True)
class Reading:
    """What one read brought: counts by (stream, id), the last checkpoints, the turns of streams.

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
        """The turns of a stream in order, ranges left out."""
        names = [s.WhichOneof("status") for s in self.statuses if s.stream == stream]
        return [name for name in names if name and name != "range_completed"]

    def ids_of(self, stream: str) -> set[str]:
        """The ids read of a stream."""
        return {object_id for name, object_id in self.ids if name == stream}


def config_for(simulator: StripeSimulator, **fields: Any) -> StripeConfig:
    """The configuration that reads the simulator, which spares requests as with Stripe itself."""
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
    """A stream, in a window perhaps."""
    selection = StreamSelection(name=name, backfill_limit=backfill_limit)
    if gte is not None:
        selection.time_range.gte.seconds = gte
    if lt is not None:
        selection.time_range.lt.seconds = lt
    return SelectedStream(stream=load_resources()[name].stream, selection=selection)


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
    """Reads to the end, or closes right after that many checkpoints; tells of each of them."""
    reading = Reading()
    if state is not None:
        reading.state.CopyFrom(state)
    read_request = ReadRequest(streams=streams, state=state or SourceState(), **request)
    async with aclosing(StripeSource(policy).read(config, read_request)) as messages:
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
                        setattr(reading.state, "global", checkpoint.data)
                        reading.excluded = list(checkpoint.excluded_streams)
                    reading.checkpoints += 1
                    if on_checkpoint is not None:
                        on_checkpoint(reading)
                    if reading.checkpoints == stop_after:
                        break
                case "barrier":
                    # Here everything is committed as it comes.
                    read_request.barriers.passed(message.barrier)
                case "dead_letter":
                    reading.dead_letters.append(message.dead_letter)
                case "log":
                    reading.logs.append(message.log)
                case "stream_status":
                    reading.statuses.append(message.stream_status)
    return reading


def time_range(gte: int, lt: int) -> TimeRange:
    """A range of whole seconds."""
    return TimeRange(gte=Timestamp(seconds=gte), lt=Timestamp(seconds=lt))
