"""Validation of the messages that a caller of PipelineWrite sends."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Sequence

from engine_server import exact_json
from engine_server.connectors.protocols import Messages
from engine_server.errors import InvalidRequest
from engine_server.state.stream_name import stream_name
from pipesync.v1.catalog_pb2 import Catalog, Stream
from pipesync.v1.engine_service_pb2 import PipelineWriteRequest
from pipesync.v1.message_pb2 import Log, Message, RecordBatch
from pipesync_rpc.display_text import quote_name
from pipesync_rpc.errors import FieldViolation
from pipesync_server.request_check import check_request

# Payloads of a source; all others come from the engine or the destination.
_TAKEN = frozenset(
    {"record_batch", "source_state", "stream_status", "connection_status", "log", "catalog"}
)
# Maximum size of a record, because decoding one blocks the event loop.
MAX_RECORD_BYTES = 1024 * 1024
# Records and bytes that are processed before other tasks get to run.
_RECORDS_AT_ONCE = 2_000
_BYTES_AT_ONCE = 512 * 1024


async def catalog_faults(catalog: Catalog, path: str) -> list[FieldViolation]:
    """Return a violation for each fault of a caller's catalog."""
    faults: list[FieldViolation] = []
    seen: set[str] = set()
    for number, stream in enumerate(catalog.streams):
        await asyncio.sleep(0)
        place = f"{path}.streams[{number}]"
        if not stream.name:
            faults.append(FieldViolation(f"{place}.name", "is required"))
        elif stream.name in seen:
            faults.append(
                FieldViolation(
                    f"{place}.name", f"{quote_name('stream', stream.name)} is listed twice"
                )
            )
        seen.add(stream.name)
        faults += _key_faults(stream, place)
        faults += _schema_faults(stream, place)
    return faults


async def write_messages(requests: AsyncIterator[PipelineWriteRequest]) -> Messages:
    """Yield the messages of the requests after the first, large ones in parts.

    Raises:
        InvalidRequest: A request holds no message, or a message that cannot be written.
    """
    async for request in requests:
        message = request.message
        faults = await check_request(request) or [fault async for fault in _faults(message)]
        if faults:
            raise InvalidRequest(faults)
        for part in _parts(message):
            await asyncio.sleep(0)
            yield part


async def warn_of_dropped_records(
    messages: AsyncIterator[Message], dropped: Counter[str]
) -> AsyncGenerator[Message, None]:
    """Yield the messages, and finally a warning for each stream with dropped records."""
    async for message in messages:
        yield message
    for stream, count in dropped.items():
        if not count:
            continue
        text = (
            f"{count} records of the stream {stream!r} were not written: the pipeline does not"
            " select it"
        )
        warning = Message(emitted_by="engine", log=Log(level=Log.LEVEL_WARN, message=text))
        warning.ts.GetCurrentTime()
        warning.log.data.update({"stream": stream, "dropped_record_count": count})
        yield warning


def _parts(message: Message) -> Iterator[Message]:
    """Yield the message, split into several if its records are many or large."""
    batch = message.record_batch
    is_small = len(batch.records) <= _RECORDS_AT_ONCE and message.ByteSize() <= _BYTES_AT_ONCE
    if is_small or len(batch.records) <= 1:
        yield message
        return
    records, size = list[bytes](), 0
    for record in batch.records:
        if records and (len(records) >= _RECORDS_AT_ONCE or size + len(record) > _BYTES_AT_ONCE):
            yield _with_records(message, records)
            records, size = [], 0
        records.append(record)
        size += len(record)
    yield _with_records(message, records)


def _with_records(message: Message, records: Iterable[bytes]) -> Message:
    part = Message(emitted_by=message.emitted_by)
    if message.HasField("ts"):
        part.ts.CopyFrom(message.ts)
    batch = message.record_batch
    part.record_batch.stream = batch.stream
    part.record_batch.are_change_events = batch.are_change_events
    if batch.HasField("emitted_at"):
        part.record_batch.emitted_at.CopyFrom(batch.emitted_at)
    part.record_batch.records.extend(records)
    return part


async def _faults(message: Message) -> AsyncGenerator[FieldViolation, None]:
    payload = message.WhichOneof("payload")
    if payload is None:
        yield FieldViolation("message", "must hold a message to write")
    elif payload not in _TAKEN:
        yield FieldViolation(f"message.{payload}", "must not be sent by a caller")
    elif payload == "record_batch":
        if not stream_name(message):
            yield FieldViolation("message.record_batch.stream", "is required")
        async for fault in _record_faults(message.record_batch):
            yield fault
    elif payload == "stream_status" and not stream_name(message):
        yield FieldViolation("message.stream_status.stream", "is required")
    elif payload == "source_state" and not exact_json.type_of(message.source_state.data.encode()):
        yield FieldViolation("message.source_state.data", "must be JSON")


async def _record_faults(batch: RecordBatch) -> AsyncGenerator[FieldViolation, None]:
    looked_at = 0
    for number, record in enumerate(batch.records):
        looked_at += len(record)
        if number % _RECORDS_AT_ONCE == _RECORDS_AT_ONCE - 1 or looked_at > _BYTES_AT_ONCE:
            looked_at = len(record)
            await asyncio.sleep(0)
        if why := _object_fault(record):
            yield FieldViolation(f"message.record_batch.records[{number}]", why)


def _object_fault(text: bytes) -> str:
    """Return the fault of a record's text; empty if it is an acceptable JSON object."""
    if len(text) > MAX_RECORD_BYTES:
        return f"has {len(text)} bytes: at most {MAX_RECORD_BYTES} are taken"
    kind = exact_json.type_of(text)
    if kind is None:
        return "must be a JSON object in UTF-8, and is no JSON"
    return "" if kind is dict else "must be a JSON object"


def _key_faults(stream: Stream, path: str) -> Iterator[FieldViolation]:
    if not stream.primary_key:
        yield FieldViolation(f"{path}.primary_key", "is required")
    seen: set[Sequence[str]] = set()
    for number, key in enumerate(stream.primary_key):
        place = f"{path}.primary_key[{number}].segments"
        segments = tuple(key.segments)
        if not segments or not all(segments):
            yield FieldViolation(place, "must name a field of the record")
        elif segments in seen:
            yield FieldViolation(place, "is named twice")
        seen.add(segments)


def _schema_faults(stream: Stream, path: str) -> Iterator[FieldViolation]:
    if "properties" not in stream.json_schema.fields:
        return
    properties = stream.json_schema.fields["properties"]
    place = f"{path}.json_schema.properties"
    if properties.WhichOneof("kind") != "struct_value":
        yield FieldViolation(place, "must be an object")
        return
    for name, declared in properties.struct_value.fields.items():
        if not name or "\0" in name:
            yield FieldViolation(place, "must name no field by an empty text or one with NUL")
        if declared.WhichOneof("kind") != "struct_value":
            yield FieldViolation(f"{place}.{name}", "must be an object")
