"""Short constructors of the messages and streams that tests use."""

from collections.abc import Mapping
from typing import Any

import orjson
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct

from engine_server.connectors.protocols import SelectedStream
from pipesync.v1.catalog_pb2 import FieldPath, Stream, StreamSelection, TimeRange
from pipesync.v1.message_pb2 import (
    Control,
    Log,
    Message,
    RecordBatch,
    RowsWritten,
    StateCheckpoint,
    StreamStatus,
)
from pipesync.v1.progress_pb2 import ConnectionStatus, RowCounts


def stream(name: str, **attributes: Any) -> Stream:
    """Return a stream whose key is ``id`` and that can be read by time."""
    return Stream(
        name=name,
        primary_key=[FieldPath(segments=["id"])],
        **{"supports_time_range": True, **attributes},
    )


def selected(name: str, **selection: Any) -> SelectedStream:
    """Return such a stream, selected."""
    return SelectedStream(stream=stream(name), selection=StreamSelection(name=name, **selection))


def seconds(gte: int | None = None, lt: int | None = None) -> TimeRange:
    """Return a time range in whole seconds; None leaves a bound open."""
    time_range = TimeRange()
    if gte is not None:
        time_range.gte.FromSeconds(gte)
    if lt is not None:
        time_range.lt.FromSeconds(lt)
    return time_range


def struct(value: Mapping[str, Any]) -> Struct:
    """Return a mapping as a protobuf Struct."""
    return ParseDict(dict(value), Struct())


def record_batch(stream_name: str, *records: bytes | Mapping[str, Any]) -> Message:
    """Return a message with records of one stream, given as bytes or as decoded values."""
    return Message(
        record_batch=RecordBatch(
            stream=stream_name,
            records=[
                record if isinstance(record, bytes) else orjson.dumps(record) for record in records
            ],
        )
    )


def checkpoint(stream_name: str, data: str = "{}") -> Message:
    """Return a message with a stream's checkpoint."""
    return Message(source_state=StateCheckpoint(stream=stream_name, data=data))


def global_checkpoint(data: str = "{}") -> Message:
    """Return a message with a checkpoint that all streams share."""
    return Message(source_state=StateCheckpoint(data=data))


def started(stream_name: str, time_range: TimeRange | None = None) -> Message:
    """Return a message that a stream starts, with the whole span of its backfill if any."""
    return _status(stream_name, started=StreamStatus.Started(time_range=time_range))


def range_completed(stream_name: str, time_range: TimeRange) -> Message:
    """Return a message that a part of a stream's backfill is complete."""
    return _status(stream_name, range_completed=StreamStatus.RangeCompleted(range=time_range))


def completed(stream_name: str) -> Message:
    """Return a message that a stream is complete."""
    return _status(stream_name, completed=StreamStatus.Completed())


def skipped(stream_name: str, reason: str = "not enabled") -> Message:
    """Return a message that a stream is skipped: it cannot be read, through no fault."""
    return _status(stream_name, skipped=StreamStatus.Skipped(reason=reason))


def errored(stream_name: str, error: str = "it broke") -> Message:
    """Return a message that a stream failed."""
    return _status(stream_name, errored=StreamStatus.Errored(error=error))


def rows_written(stream_name: str, **counts: int) -> Message:
    """Return a message with the results of a stream's records, by the names of RowCounts."""
    return Message(rows_written=RowsWritten(stream=stream_name, rows=RowCounts(**counts)))


def log(text: str, level: Log.Level.ValueType = Log.LEVEL_INFO, **data: Any) -> Message:
    """Return a message with a log line of a connector."""
    return Message(log=Log(level=level, message=text, data=struct(data)))


def connected() -> Message:
    """Return a message that the connection check succeeded."""
    return Message(connection_status=ConnectionStatus(status=ConnectionStatus.STATUS_SUCCEEDED))


def connection_failed(reason: str) -> Message:
    """Return a message that the connection check failed."""
    return Message(
        connection_status=ConnectionStatus(status=ConnectionStatus.STATUS_FAILED, message=reason)
    )


def control(source_config: Mapping[str, Any]) -> Message:
    """Return a message by which a source asks to store its changed configuration."""
    return Message(control=Control(source_config=struct(source_config)))


def _status(stream_name: str, **status: Any) -> Message:
    return Message(stream_status=StreamStatus(stream=stream_name, **status))
