"""Messages for a destination under test, and checks of the records that it wrote."""

import itertools
import json
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from typing import Any

from google.protobuf.json_format import ParseDict

from engine_server.connectors.conformance.subject import DestinationSubject
from engine_server.connectors.protocols import SelectedStream
from pipesync.v1.catalog_pb2 import FieldPath, Stream, StreamSelection, TimeRange
from pipesync.v1.message_pb2 import (
    Barrier,
    InputsEnd,
    Log,
    Message,
    RecordBatch,
    StateCheckpoint,
    StreamStatus,
)
from pipesync.v1.state_pb2 import DeadLetter

# A long name tests the length limit of identifiers.
STREAMS = ("conformance_people", "conformance_places_and_whatever_else_bears_a_name_of_length")

_SCHEMA = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "name": {"type": ["string", "null"]},
        "number": {"type": "integer"},
        "nested": {"type": "object"},
    },
}
_numbers = itertools.count(1)

Record = Mapping[str, Any]


def written_streams() -> list[SelectedStream]:
    """Return the streams that the tests write."""
    return [
        SelectedStream(
            stream=Stream(
                name=name,
                primary_key=[FieldPath(segments=["id"])],
                json_schema=ParseDict(_SCHEMA, Stream().json_schema),
            ),
            selection=StreamSelection(name=name),
        )
        for name in STREAMS
    ]


def new_record() -> Record:
    """Return a record that no test has written before."""
    number = next(_numbers)
    return {
        "id": f"id_{number}",
        "name": None if number % 2 else f"Zoë's \\ number {number}",
        "number": number,
        "nested": {"deeper": [number, {}]},
    }


def batch(stream: str, *records: Record) -> Message:
    """Return a record batch of one stream."""
    encoded = [json.dumps(record).encode() for record in records]
    return Message(record_batch=RecordBatch(stream=stream, records=encoded))


def checkpoint(stream: str, pages: int) -> Message:
    """Return a checkpoint of one stream, or a shared one for an empty name."""
    return Message(source_state=StateCheckpoint(stream=stream, data=f'{{"pages":  {pages}}}'))


def dead_letter(event_id: str) -> Message:
    """Return a dead letter."""
    body = json.dumps({"id": event_id}).encode()
    return Message(dead_letter=DeadLetter(event_id=event_id, event_json=body))


def inputs_end() -> Message:
    """Return the message that ends pushed inputs."""
    return Message(inputs_end=InputsEnd())


def status(stream: str, **fields: Any) -> Message:
    """Return a status of one stream, e.g. ``completed=StreamStatus.Completed()``."""
    return Message(stream_status=StreamStatus(stream=stream, **fields))


def sync_messages() -> list[Message]:
    """Return the messages of a source with two streams; no checkpoint follows the last records."""
    one, two = STREAMS
    return [
        status(one, started=StreamStatus.Started()),
        batch(one, new_record(), new_record()),
        checkpoint(one, 1),
        status(two, started=StreamStatus.Started()),
        batch(two, new_record()),
        batch(one, new_record()),
        Message(log=Log(level=Log.LEVEL_INFO, message="from the source")),
        checkpoint(two, 1),
        dead_letter("evt_1"),
        dead_letter("evt_2"),
        checkpoint("", 1),
        Message(barrier=Barrier(number=1)),
        batch(one, new_record(), new_record(), new_record()),
        checkpoint(one, 2),
        status(one, range_completed=StreamStatus.RangeCompleted(range=TimeRange())),
        status(one, completed=StreamStatus.Completed()),
        checkpoint(two, 2),
        Message(barrier=Barrier(number=2)),
        batch(two, new_record(), new_record()),
    ]


async def sent(messages: Iterable[Message]) -> AsyncGenerator[Message, None]:
    """Yield a copy of each message, so that a destination may change it."""
    for message in messages:
        copy = Message()
        copy.CopyFrom(message)
        yield copy


def records_of(messages: Iterable[Message], stream: str) -> list[Record]:
    """Return the records of one stream among messages."""
    return [
        json.loads(record)
        for message in messages
        if message.HasField("record_batch") and message.record_batch.stream == stream
        for record in message.record_batch.records
    ]


def ordered_messages(messages: Iterable[Message]) -> list[Message]:
    """Return the messages whose order is fixed: no logs, and none that a destination adds."""
    added = ("log", "rows_written", "rejected_records")
    return [message for message in messages if message.WhichOneof("payload") not in added]


async def missing_records(subject: DestinationSubject, messages: Sequence[Message]) -> list[Record]:
    """Return the records of ``messages`` that are not visible unchanged to other clients."""
    missing = []
    for stream in STREAMS:
        if records := records_of(messages, stream):
            rows = {row["id"]: row for row in await subject.rows(stream)}
            missing += [
                record
                for record in records
                # A destination may add fields of its own.
                if not record.items() <= rows.get(record["id"], {}).items()
            ]
    return missing
