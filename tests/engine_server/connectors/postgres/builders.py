"""Builders of streams, messages and configurations for tests."""

import json
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from google.protobuf.json_format import ParseDict

from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.destination import PostgresDestination
from engine_server.connectors.postgres.rows.row import StreamRows
from engine_server.connectors.protocols import SelectedStream
from pipesync.v1.catalog_pb2 import Stream, StreamSelection
from pipesync.v1.message_pb2 import Log, Message, RecordBatch
from tests.engine_server.stages.sequences import given

# As in an engine, one object serves all writes, which share its pools.
DESTINATION = PostgresDestination()
# Internal tables of every schema, with tests of their own.
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
    """Return a stream as the Stripe source describes it by default.

    Its account is unknown when ``account_id`` is empty.
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
    """Return a record of account acct_1 with the time ``at``."""
    metadata: dict[str, Any] = {"_account_id": "acct_1"}
    if at is not None:
        metadata["_updated_at"] = at
    return {"id": f"cus_{number}", "object": "customer", **fields, **metadata}


def records(name: str, *contents: Mapping[str, Any] | bytes) -> Message:
    """Return a batch of records, given as fields or as bytes."""
    batch = RecordBatch(stream=name)
    batch.records.extend(
        content if isinstance(content, bytes) else json.dumps(content).encode()
        for content in contents
    )
    return Message(record_batch=batch)


def rows_of(contents: Sequence[bytes], *, are_change_events: bool = False) -> StreamRows:
    """Return rows of these records."""
    rows = StreamRows(are_change_events=are_change_events)
    rows.add(contents)
    return rows


def log_line(text: str) -> Message:
    """Return a log message."""
    return Message(log=Log(level=Log.LEVEL_INFO, message=text))


async def write(
    config: PostgresConfig,
    streams: Sequence[SelectedStream],
    messages: Iterable[Message] | AsyncIterator[Message],
) -> list[Message]:
    """Write messages, and return the yielded ones without logs and counts of rows."""
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
    """Write messages, and return the yielded ones without logs and rejected-record counts."""
    source = messages if isinstance(messages, AsyncIterator) else given(*messages)
    async with aclosing(DESTINATION.write(config, streams, source)) as yielded:
        return [
            message
            async for message in yielded
            if not (message.HasField("log") or message.HasField("rejected_records"))
        ]


async def logs(messages: AsyncIterator[Message]) -> list[str]:
    """Return the texts of the log messages, except those about internal tables."""
    return [
        message.log.message
        async for message in messages
        if message.HasField("log") and not any(name in message.log.message for name in OWN_TABLES)
    ]
