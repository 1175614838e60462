"""Stage that drops streams and fields that are not selected."""

from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any

import msgspec
import structlog

from engine_server import exact_json
from engine_server.connectors.protocols import SelectedStream
from engine_server.state.stream_name import stream_name
from pipesync.v1.message_pb2 import Message, RecordBatch

_log = structlog.get_logger(__name__)

# Number of dropped streams that are counted separately, and the name for all others.
_MAX_NAMED = 100
_OTHERS = "(others)"
_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])


async def enforce_catalog(
    messages: AsyncIterator[Message],
    streams: Sequence[SelectedStream],
    dropped: Counter[str] | None = None,
) -> AsyncGenerator[Message, None]:
    """Drop messages of unselected streams, and unselected fields of records.

    Each dropped stream is logged once, with counts, when the messages end. Records of a stream
    without a selection of fields pass as unchanged bytes.

    Args:
        messages: Messages from a source or a caller.
        streams: The selected streams.
        dropped: Receives the number of dropped records by stream.
    """
    kept_fields = {stream.name: _kept_fields(stream) for stream in streams}
    dropped_records: Counter[str] = Counter() if dropped is None else dropped
    dropped_messages: Counter[str] = Counter()
    try:
        async for message in messages:
            stream = stream_name(message)
            if stream and stream not in kept_fields:
                is_named = stream in dropped_messages or len(dropped_messages) < _MAX_NAMED
                name = stream if is_named else _OTHERS
                dropped_messages[name] += 1
                dropped_records[name] += len(message.record_batch.records)
                continue
            if message.HasField("record_batch") and (fields := kept_fields[stream]):
                _project(message.record_batch, fields)
            yield message
    finally:
        for stream, count in dropped_messages.items():
            _log.warning(
                "unselected_stream_dropped",
                stream=stream,
                messages=count,
                records=dropped_records[stream],
            )


def _kept_fields(selected: SelectedStream) -> frozenset[str]:
    """Return the top-level fields to keep; empty for all of them."""
    if not selected.selection.fields:
        return frozenset()
    stream = selected.stream
    key_fields = (path.segments[0] for path in stream.primary_key)
    bookkeeping_fields = {
        stream.newer_than_field,
        stream.soft_delete_field,
        stream.time_range_field,
    } - {""}
    return frozenset({*selected.selection.fields, *key_fields, *bookkeeping_fields})


def _project(batch: RecordBatch, fields: frozenset[str]) -> None:
    batch.records[:] = [_projected(record, fields) for record in batch.records]


def _projected(record: bytes, fields: frozenset[str]) -> bytes:
    try:
        # Values are copied as raw bytes, however large they are.
        return msgspec.json.encode(_kept(_FIELDS.decode(record), fields))
    except (ValueError, RecursionError):
        # msgspec refuses lone surrogates in names, and deeply nested values.
        return exact_json.encode(_kept(exact_json.decode(record, max_values=len(record)), fields))


def _kept(values: dict[str, Any], fields: frozenset[str]) -> dict[str, Any]:
    return {
        name: value
        for name, value in values.items()
        # A leading underscore marks metadata that the source added.
        if name in fields or name.startswith("_")
    }
