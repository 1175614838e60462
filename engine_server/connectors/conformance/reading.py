"""Reader of sources under test, and checks of the order of their messages."""

import dataclasses
import json
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import jsonschema
from google.protobuf.json_format import MessageToDict

from engine_server.barriers import Barriers
from engine_server.connectors.config import ConnectorConfig
from engine_server.connectors.conformance.connector import listed
from engine_server.connectors.conformance.subject import SourceSubject, parsed
from engine_server.connectors.protocols import Messages, ReadRequest, SelectedStream, Source
from engine_server.errored_streams import ErroredStreams
from engine_server.state.stream_name import stream_name
from pipesync.v1.catalog_pb2 import Catalog, StreamSelection
from pipesync.v1.message_pb2 import Message
from pipesync.v1.state_pb2 import SourceState

# Payloads that a read may yield.
_READ_KINDS = frozenset(
    {"record_batch", "source_state", "stream_status", "log", "control", "barrier", "dead_letter"}
)
_FINAL_STATUSES = frozenset({"completed", "skipped", "errored"})


@dataclass(kw_only=True)
class Reading:
    """Messages of a read, and facts derived from them.

    Attributes:
        messages: All messages, in order.
        keys: Primary keys of the records by stream, as JSON.
        state: Initial state of the read, updated by the checkpoints that were yielded.
        checkpoints: Number of checkpoints by stream; shared ones under the empty name.
    """

    messages: list[Message] = field(default_factory=list)
    keys: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    state: SourceState = field(default_factory=SourceState)
    checkpoints: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def statuses(self, stream: str) -> list[str]:
        """Return the statuses of a stream in order, without completed ranges."""
        statuses = [
            message.stream_status.WhichOneof("status") or ""
            for message in self.messages
            if message.HasField("stream_status") and message.stream_status.stream == stream
        ]
        return [status for status in statuses if status != "range_completed"]

    def add(self, message: Message, streams: Sequence[SelectedStream]) -> None:
        """Add one message."""
        self.messages.append(message)
        name = stream_name(message)
        if message.HasField("record_batch"):
            [paths] = [one.stream.primary_key for one in streams if one.name == name]
            for record in message.record_batch.records:
                key = [_value(json.loads(record), path.segments) for path in paths]
                self.keys[name].add(json.dumps(key))
        elif message.HasField("source_state"):
            self.checkpoints[name] += 1
            if name:
                self.state.streams[name] = message.source_state.data
            else:
                self.state.shared = message.source_state.data


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """Reader of streams of one source; all its reads belong to the same run."""

    source: Source[Any]
    config: ConnectorConfig
    streams: Sequence[SelectedStream]

    @classmethod
    async def of(cls, subject: SourceSubject) -> "Reader":
        """Return a reader of the streams in ``subject.holds``."""
        return cls(
            source=subject.connector,
            config=parsed(subject.connector, subject.config),
            streams=await selected_streams(subject),
        )

    def each_alone(self) -> list["Reader"]:
        """Return a reader per stream."""
        return [dataclasses.replace(self, streams=[stream]) for stream in self.streams]

    def open(
        self,
        *,
        state: SourceState | None = None,
        state_limit: int | None = None,
        errored_streams: ErroredStreams | None = None,
        barriers: Barriers | None = None,
    ) -> Messages:
        """Start a read; the caller closes it."""
        request = ReadRequest(
            streams=self.streams,
            state=state or SourceState(),
            state_limit=state_limit,
            errored_streams=errored_streams or ErroredStreams(),
            barriers=barriers or Barriers(),
        )
        return self.source.read(self.config, request)

    async def read(
        self,
        *,
        state: SourceState | None = None,
        stop_after: int | None = None,
        **request: Any,
    ) -> Reading:
        """Read to the end, or close the read after ``stop_after`` checkpoints."""
        reading = Reading()
        reading.state.CopyFrom(state or SourceState())
        barriers = Barriers()
        async with aclosing(self.open(state=state, barriers=barriers, **request)) as messages:
            async for message in messages:
                # Records count as committed at once.
                barriers.passed(message.barrier)
                reading.add(message, self.streams)
                if stop_after is not None and sum(reading.checkpoints.values()) == stop_after:
                    break
        return reading


async def discovered(subject: SourceSubject) -> Catalog:
    """Return the source's catalog, which follows any logs."""
    config = parsed(subject.connector, subject.config)
    *logs, last = await listed(subject.connector.discover(config))
    assert all(message.HasField("log") for message in logs), "one catalog, after logs if any"
    assert last.HasField("catalog"), "discover ends with its catalog"
    return last.catalog


async def selected_streams(subject: SourceSubject) -> list[SelectedStream]:
    """Return the streams in ``subject.holds``, as the engine passes them to a read."""
    offered = {stream.name: stream for stream in (await discovered(subject)).streams}
    missing = subject.holds.keys() - offered.keys()
    assert not missing, f"the source does not offer {sorted(missing)}"
    # A run includes the current second.
    ceiling = int(time.time()) + 1
    streams = []
    for name in subject.holds:
        selection = StreamSelection(name=name)
        if offered[name].supports_time_range:
            selection.time_range.lt.FromSeconds(ceiling)
        streams.append(SelectedStream(stream=offered[name], selection=selection))
    return streams


def assert_in_order(messages: Sequence[Message], streams: Sequence[SelectedStream]) -> None:
    """Fail unless the messages of a complete read have the order that ``Source.read`` requires."""
    left = {stream.name: "started" for stream in streams}
    unaccounted: set[str] = set()
    for message in messages:
        kind, name = message.WhichOneof("payload"), stream_name(message)
        assert kind in _READ_KINDS, f"a read yields no {kind}"
        if kind in ("log", "control", "barrier", "dead_letter"):
            continue
        if kind == "source_state":
            unaccounted.discard(name)
            if not name:
                unaccounted.clear()
                continue
        assert name in left, f"{kind} of {name!r}: not requested, or already final"
        if kind == "stream_status":
            status = message.stream_status.WhichOneof("status")
            assert (status == "started") == (left[name] == "started"), f"{name}: started once"
            assert name not in unaccounted, f"{name}: {status} before the checkpoint of its records"
            left[name] = "completed"
            if status in _FINAL_STATUSES:
                del left[name]
            continue
        assert left[name] == "completed", f"{kind} of {name} before it started"
        if kind == "record_batch":
            unaccounted.add(name)
    assert not left, f"streams without a final status: {sorted(left)}"


def assert_checkpoints_are_valid(subject: SourceSubject, messages: Sequence[Message]) -> None:
    """Fail unless every checkpoint is a JSON object that matches the schema in the spec."""
    schema = MessageToDict(subject.connector.spec().stream_state_schema)
    for message in messages:
        if message.HasField("source_state"):
            data = json.loads(message.source_state.data)
            assert isinstance(data, dict), f"a checkpoint is a JSON object, not {data!r}"
            if message.source_state.stream:
                jsonschema.validate(data, schema)


def _value(record: Any, segments: Sequence[str]) -> Any:
    for segment in segments:
        assert isinstance(record, dict), f"a record without its key: {record!r}"
        assert segment in record, f"a record without its key {segment!r}"
        record = record[segment]
    return record
