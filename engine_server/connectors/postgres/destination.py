"""Postgres as a destination: one table a stream."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass

from engine_server.connectors.config import config_schema
from engine_server.connectors.postgres import deleted_rows, owner_index, retry
from engine_server.connectors.postgres.ask import ask
from engine_server.connectors.postgres.check import Findings, check_database
from engine_server.connectors.postgres.checkpoints.recorder import CheckpointRecorder
from engine_server.connectors.postgres.checkpoints.resume import WriteTicket, resume
from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.flow import Flow
from engine_server.connectors.postgres.inventory import PostgresInventory, open_inventory
from engine_server.connectors.postgres.pool import Pool, lingering_pools, open_pool
from engine_server.connectors.postgres.preparation import prepare_setup, prepare_write
from engine_server.connectors.postgres.rejected_records import RejectedRecords
from engine_server.connectors.postgres.retry_rejected import retry_rejected
from engine_server.connectors.postgres.tables import Table, table_of
from engine_server.connectors.postgres.teardown import tear_down
from engine_server.connectors.postgres.writer import Writer
from engine_server.connectors.protocols import (
    Messages,
    Resumed,
    ResumeRequest,
    RetryResult,
    SelectedStream,
)
from engine_server.errors import ConnectorError
from pipesync.v1.catalog_pb2 import Spec
from pipesync.v1.message_pb2 import Log, Message
from pipesync.v1.message_pb2 import RejectedRecords as RejectedRecordCount
from pipesync.v1.progress_pb2 import ConnectionStatus


class PostgresDestination:
    """Keeps the rows of each stream in a table of its name. See ``protocols.Destination``.

    A table has the stream's primary key as text columns, the object as its source sent it in
    ``_raw_data``, the stamps ``_account_id`` and ``_updated_at``, ``_last_synced_at`` (when the row
    was last written), and a typed column for each field.
    """

    @property
    def config_model(self) -> type[PostgresConfig]:
        """The model that its configuration is checked against."""
        return PostgresConfig

    def spec(self) -> Spec:
        """Its own description."""
        return Spec(config_schema=config_schema(PostgresConfig), supports_reconcile=True)

    async def check(self, config: PostgresConfig, streams: Sequence[SelectedStream]) -> Messages:
        """Yields whether Postgres lets us in and lets us write these streams."""
        found, reached = Findings(), False
        try:
            tables = _tables(config, streams)
            async with open_pool(config) as pool:
                found = await ask(
                    pool,
                    config,
                    lambda connection: check_database(connection, config, tables),
                    patience=retry.CHECK_PATIENCE,
                )
                reached = True
        except ConnectorError as error:
            found.problems.append(error.message)
        failed = bool(found.problems)
        status = ConnectionStatus.STATUS_FAILED if failed else ConnectionStatus.STATUS_SUCCEEDED
        yield Message(
            connection_status=ConnectionStatus(
                status=status,
                message="; ".join(found.problems),
                notices=found.notices,
                reached=reached,
            )
        )

    async def write(
        self,
        config: PostgresConfig,
        streams: Sequence[SelectedStream],
        messages: AsyncIterator[Message],
    ) -> Messages:
        """Commits the records and yields every message on, as the protocol says.

        Tables that are not there are made first, so a sync works without setup.
        """
        tables = _tables(config, streams)
        async with open_pool(config) as pool:
            rejected = RejectedRecords(pool, config, tables)

            async def prepare() -> _Beginning:
                prepared = await prepare_write(
                    pool, config, tables, rejected, patience=retry.SYNC_PATIENCE
                )
                recorder = CheckpointRecorder(config.schema_name, tables, files=prepared.files)
                return _Beginning(
                    logs=prepared.logs,
                    recorder=recorder if prepared.records_checkpoints else None,
                    refused=prepared.refused,
                )

            written = _write(pool, config, tables, messages, rejected, prepare)
            async with aclosing(written):
                async for message in written:
                    yield message

    async def resume(
        self, config: PostgresConfig, streams: Sequence[SelectedStream], request: ResumeRequest
    ) -> Resumed:
        """Compares a state with what is recorded. See ``protocols.CheckpointKeeper``."""
        return await resume(config, _tables(config, streams), request)

    async def write_resumed(
        self,
        config: PostgresConfig,
        streams: Sequence[SelectedStream],
        messages: AsyncIterator[Message],
        resumed: Resumed,
    ) -> Messages:
        """Writes and records checkpoints. See ``protocols.CheckpointKeeper``."""
        ticket = resumed.ticket
        if not isinstance(ticket, WriteTicket):
            raise TypeError("write_resumed needs what resume of the same destination answered")
        tables = _tables(config, streams)
        async with open_pool(config) as pool:
            rejected = RejectedRecords(pool, config, tables, ticket.rejected)

            async def prepare() -> _Beginning:
                recorder = CheckpointRecorder(config.schema_name, tables, ticket.lines)
                return _Beginning(
                    logs=ticket.logs,
                    recorder=recorder if ticket.lines is not None else None,
                    refused=ticket.refused,
                )

            written = _write(pool, config, tables, messages, rejected, prepare)
            async with aclosing(written):
                async for message in written:
                    yield message

    async def retry_rejected(
        self, config: PostgresConfig, streams: Sequence[SelectedStream]
    ) -> RetryResult:
        """Writes rejected records once more. See ``protocols.RejectedRecordKeeper``."""
        tables = _tables(config, streams)
        async with open_pool(config) as pool:
            rejected = RejectedRecords(pool, config, tables)
            prepared = await prepare_write(
                pool, config, tables, rejected, patience=retry.CALL_PATIENCE
            )
            recorder = CheckpointRecorder(config.schema_name, tables, files=prepared.files)
            return await retry_rejected(
                pool,
                config,
                tables,
                _writer(pool, config, tables, rejected),
                rejected,
                recorder if prepared.records_checkpoints else None,
            )

    def kept_open(self) -> AbstractAsyncContextManager[None]:
        """Keeps connections for a few seconds between syncs. See ``protocols.Resident``."""
        return lingering_pools()

    def inventory(
        self, config: PostgresConfig, streams: Sequence[SelectedStream]
    ) -> AbstractAsyncContextManager[PostgresInventory]:
        """What the tables of these streams hold. See ``protocols.InventoryKeeper``."""
        return open_inventory(config, streams)

    async def setup(self, config: PostgresConfig, streams: Sequence[SelectedStream]) -> Messages:
        """Makes the schema, the tables, their columns and indexes where they are missing."""
        tables = _tables(config, streams)
        async with open_pool(config) as pool:
            prepared = await prepare_setup(pool, config, tables)
            logs = [*prepared.logs, *await owner_index.make_missing(pool, config, tables)]
        for log in logs:
            yield Message(log=log)

    async def teardown(self, config: PostgresConfig, streams: Sequence[SelectedStream]) -> Messages:
        """Drops the tables of these streams, and the schema that leaves empty unless it is public.

        A table with rows of another account than the one that ``Stream.metadata`` names stays.

        Raises:
            ConnectorError: The schema is one of Postgres's own, or something else (a view, say)
                depends on a table.
        """
        tables = _tables(config, streams)
        async with open_pool(config) as pool:
            done = await ask(
                pool,
                config,
                lambda connection: tear_down(connection, config.schema_name, tables),
                patience=retry.CALL_PATIENCE,
            )
        for sentence in done:
            yield Message(log=Log(level=Log.LEVEL_INFO, message=sentence))


def _tables(config: PostgresConfig, streams: Sequence[SelectedStream]) -> list[Table]:
    return [table_of(selected, config.schema_name) for selected in streams]


def _writer(
    pool: Pool, config: PostgresConfig, tables: Sequence[Table], rejected: RejectedRecords
) -> Writer:
    return Writer(
        pool,
        tables,
        rejected,
        hard_delete=config.deletes_for_good,
        statement_timeout=config.statement_timeout,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Beginning:
    """Facts about the tables, before the first row is written.

    Attributes:
        logs: What there is to say of them.
        recorder: Moves the lines of checkpoints; None where these are not recorded.
        refused: The reason for each stream that has no table.
    """

    logs: Sequence[Log]
    recorder: CheckpointRecorder | None
    refused: Mapping[str, str]


async def _write(
    pool: Pool,
    config: PostgresConfig,
    tables: Sequence[Table],
    messages: AsyncIterator[Message],
    rejected: RejectedRecords,
    prepare: Callable[[], Awaitable[_Beginning]],
) -> Messages:
    writer = _writer(pool, config, tables, rejected)
    # The source is at its first page while the tables are looked at.
    async with Flow(writer, messages, batch_rows=config.batch_size) as flow:
        beginning = await prepare()
        for log in beginning.logs:
            yield Message(log=log)
        if beginning.recorder is not None:
            flow.record_with(beginning.recorder)
        flow.refuse(beginning.refused)
        if config.deletes_for_good:
            await ask(
                pool,
                config,
                lambda connection: deleted_rows.forget_old(connection, config.schema_name),
                patience=retry.SYNC_PATIENCE,
            )
        async with aclosing(flow.passed_on()) as passed_on:
            async for message in passed_on:
                yield message
        held = RejectedRecordCount(held_record_count=await rejected.held_count())
        yield Message(rejected_records=held)
