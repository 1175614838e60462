"""Write of a request's messages, from the preparation of its tables to the rejected records."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from engine_server.connectors.postgres.checkpoints.recorder import CheckpointRecorder
from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.connection import retry
from engine_server.connectors.postgres.connection.catalog_transaction import run_in_transaction
from engine_server.connectors.postgres.connection.pool import Pool
from engine_server.connectors.postgres.rejection.rejection_tracker import RejectionTracker
from engine_server.connectors.postgres.schema import tombstones
from engine_server.connectors.postgres.schema.tables import Table
from engine_server.connectors.postgres.write.ordered_writer import OrderedWriter
from engine_server.connectors.postgres.write.writer import Writer
from engine_server.connectors.protocols import Messages
from pipesync.v1.message_pb2 import Log, Message
from pipesync.v1.message_pb2 import RejectedRecords as RejectedRecordCount


def writer_of(
    pool: Pool, config: PostgresConfig, tables: Sequence[Table], rejected: RejectionTracker
) -> Writer:
    """Return the writer of a configuration."""
    return Writer(
        pool,
        tables,
        rejected,
        hard_delete=config.hard_deletes,
        statement_timeout=config.statement_timeout,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteStart:
    """The state of the tables before the first row is written.

    Attributes:
        logs: Messages about the tables.
        recorder: Records checkpoints; None where they cannot be recorded.
        refused: The reason for each stream that has no table.
    """

    logs: Sequence[Log]
    recorder: CheckpointRecorder | None
    refused: Mapping[str, str]


async def write_messages(
    pool: Pool,
    config: PostgresConfig,
    tables: Sequence[Table],
    messages: AsyncIterator[Message],
    rejected: RejectionTracker,
    prepare: Callable[[], Awaitable[WriteStart]],
) -> Messages:
    """Commit the records, and yield every message as ``Destination.write`` promises.

    Args:
        pool: The pool.
        config: The configuration of the pool.
        tables: The tables of the selected streams.
        messages: Messages of the source.
        rejected: Tracks the rejected records.
        prepare: Prepares the tables, while the source reads its first page.
    """
    writer = writer_of(pool, config, tables, rejected)
    async with OrderedWriter(writer, messages, batch_rows=config.batch_size) as ordered:
        start = await prepare()
        for log in start.logs:
            yield Message(log=log)
        if start.recorder is not None:
            ordered.record_with(start.recorder)
        ordered.refuse(start.refused)
        if config.hard_deletes:
            await run_in_transaction(
                pool,
                config,
                lambda connection: tombstones.delete_expired(connection, config.schema_name),
                retry_timeout=retry.SYNC_TIMEOUT,
            )
        async with aclosing(ordered.committed()) as committed:
            async for message in committed:
                yield message
        held = RejectedRecordCount(held_record_count=await rejected.held_count())
        yield Message(rejected_records=held)
