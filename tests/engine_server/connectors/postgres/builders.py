"""Streams, messages and a destination's surroundings, in few words."""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from google.protobuf.json_format import ParseDict

from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.destination import PostgresDestination
from engine_server.connectors.postgres.rows import StreamRows
from engine_server.connectors.protocols import SelectedStream
from pipesync.v1.catalog_pb2 import Stream, StreamSelection
from pipesync.v1.message_pb2 import Log, Message, RecordBatch, StateCheckpoint, StreamStatus

# Every schema has them; their own tests look at them.
REJECTED_TABLE = "_pipesync_rejected"
CHECKPOINTS_TABLE = "_pipesync_checkpoints"
OWN_TABLES = (REJECTED_TABLE, CHECKPOINTS_TABLE)
CUSTOMER_FIELDS = {
    "id": {"type": "string"},
    "object": {"type": "string"},
    "name": {"type": ["string", "null"]},
    "balance": {"type": "integer"},
    "rate": {"type": "number"},
    "livemode": {"type": "boolean"},
    "address": {"type": ["object", "null"]},
    "tags": {"type": "array"},
    "deleted": {"type": "boolean"},
}


def stream(
    name: str = "customers",
    *,
    properties: Mapping[str, Any] = CUSTOMER_FIELDS,
    primary_key: Sequence[Sequence[str]] = (("id",), ("_account_id",)),
    newer_than_field: str = "_updated_at",
    soft_delete_field: str = "deleted",
    fields: Sequence[str] = (),
    account_id: str = "acct_1",
) -> SelectedStream:
    """A stream as the Stripe source describes one, unless told otherwise.

    Its account is not known when ``account_id`` is empty.
    """
    described = Stream(
        name=name, newer_than_field=newer_than_field, soft_delete_field=soft_delete_field
    )
    if account_id:
        described.metadata["account_id"] = account_id
    for segments in primary_key:
        described.primary_key.add(segments=segments)
    ParseDict({"type": "object", "properties": dict(properties)}, described.json_schema)
    return SelectedStream(stream=described, selection=StreamSelection(name=name, fields=fields))


def customer(number: int, *, at: int | None = 1, **fields: Any) -> dict[str, Any]:
    """A record of account acct_1, stamped with the time ``at``."""
    stamps: dict[str, Any] = {"_account_id": "acct_1"}
    if at is not None:
        stamps["_updated_at"] = at
    return {"id": f"cus_{number}", "object": "customer", **fields, **stamps}


def records(name: str, *contents: Mapping[str, Any] | bytes) -> Message:
    """A batch of records, given as fields or as the bytes themselves."""
    batch = RecordBatch(stream=name)
    batch.records.extend(
        content if isinstance(content, bytes) else json.dumps(content).encode()
        for content in contents
    )
    return Message(record_batch=batch)


def rows_of(contents: Sequence[bytes], *, are_changes: bool = False) -> StreamRows:
    """Records on their way to a table."""
    rows = StreamRows(are_changes=are_changes)
    rows.add(contents)
    return rows


def checkpoint(name: str, data: str = "{}") -> Message:
    """A stream's checkpoint; the global one when ``name`` is empty."""
    return Message(source_state=StateCheckpoint(stream=name, data=data))


def completed(name: str) -> Message:
    """The end of a stream."""
    return Message(stream_status=StreamStatus(stream=name, completed=StreamStatus.Completed()))


def log_line(text: str) -> Message:
    """A log message."""
    return Message(log=Log(level=Log.LEVEL_INFO, message=text))


async def given(*messages: Message) -> AsyncGenerator[Message, None]:
    """The messages, one after the other."""
    for message in messages:
        yield message


async def write(
    config: PostgresConfig,
    streams: Sequence[SelectedStream],
    messages: Iterable[Message] | AsyncIterator[Message],
) -> list[Message]:
    """All that the destination passes on, without what it says itself: logs and counts of rows."""
    return [
        message
        for message in await write_and_count(config, streams, messages)
        if not message.HasField("rows_written")
    ]


async def write_and_count(
    config: PostgresConfig,
    streams: Sequence[SelectedStream],
    messages: Iterable[Message] | AsyncIterator[Message],
) -> list[Message]:
    """All that the destination yields, without the logs and the count of rejected records."""
    source = messages if isinstance(messages, AsyncIterator) else given(*messages)
    async with aclosing(PostgresDestination().write(config, streams, source)) as yielded:
        return [
            message
            async for message in yielded
            if not (message.HasField("log") or message.HasField("rejected_records"))
        ]


async def logs(messages: AsyncIterator[Message]) -> list[str]:
    """The texts of the log messages, but for those about tables that every schema has."""
    return [
        message.log.message
        async for message in messages
        if message.HasField("log") and not any(name in message.log.message for name in OWN_TABLES)
    ]
