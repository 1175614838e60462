"""Keeps a stream of messages to the streams, and the fields, that were selected."""

from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Sequence

import structlog

from engine_server import exact_json
from engine_server.connectors.protocols import SelectedStream
from engine_server.stream_name import stream_name
from pipesync.v1.message_pb2 import Message, RecordBatch

log = structlog.get_logger()


async def enforce_catalog(
    messages: AsyncIterator[Message], streams: Sequence[SelectedStream]
) -> AsyncGenerator[Message, None]:
    """Drops records, checkpoints and statuses of other streams, and the fields nobody asked for.

    A dropped stream is logged once, with counts, when the messages end. Records of a stream without
    selected fields pass untouched, as the bytes they are.
    """
    kept_fields = {stream.name: _kept_fields(stream) for stream in streams}
    dropped_records: Counter[str] = Counter()
    dropped_messages: Counter[str] = Counter()
    try:
        async for message in messages:
            stream = stream_name(message)
            if stream and stream not in kept_fields:
                dropped_messages[stream] += 1
                dropped_records[stream] += len(message.record_batch.records)
                continue
            if message.HasField("record_batch") and (fields := kept_fields[stream]):
                _project(message.record_batch, fields)
            yield message
    finally:
        for stream, count in dropped_messages.items():
            log.warning(
                "unselected_stream_dropped",
                stream=stream,
                messages=count,
                records=dropped_records[stream],
            )


def _kept_fields(selected: SelectedStream) -> frozenset[str]:
    """Top-level fields that stay; empty for all of them."""
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
    batch.records[:] = [
        exact_json.encode(
            {
                name: value
                for name, value in exact_json.decode(record).items()
                # A leading underscore marks what the source noted about a record.
                if name in fields or name.startswith("_")
            }
        )
        for record in batch.records
    ]
