"""Postgres as a destination: one table for each stream."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from functools import partial

from engine_server.connectors.config import config_schema
from engine_server.connectors.postgres.check.database import Findings, check_database
from engine_server.connectors.postgres.checkpoints.recorder import CheckpointRecorder
from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.connection import retry
from engine_server.connectors.postgres.connection.catalog_transaction import run_in_transaction
from engine_server.connectors.postgres.connection.pool import Pool
from engine_server.connectors.postgres.connection.pools import Pools
from engine_server.connectors.postgres.rejection.rejection_tracker import RejectionTracker
from engine_server.connectors.postgres.schema.tables import Table, table_of
from engine_server.connectors.postgres.setup.preparation import prepare_setup, prepare_write
from engine_server.connectors.postgres.stored_rows import owner_index
from engine_server.connectors.postgres.stored_rows.stored_rows import (
    PostgresStoredRows,
    open_stored_rows,
)
from engine_server.connectors.postgres.teardown.drop import tear_down
from engine_server.connectors.postgres.teardown.plan import plan_teardown
from engine_server.connectors.postgres.write.resume import WriteToken, resume
from engine_server.connectors.postgres.write.retry_rejected import retry_rejected
from engine_server.connectors.postgres.write.write_messages import (
    WriteStart,
    write_messages,
    writer_of,
)
from engine_server.connectors.protocols import (
    Messages,
    ResumeRequest,
    ResumeResult,
    RetryResult,
    SelectedStream,
)
from engine_server.errors import ConnectorError
from pipesync.v1.catalog_pb2 import Spec
from pipesync.v1.message_pb2 import Log, Message
from pipesync.v1.progress_pb2 import ConnectionStatus
from pipesync_postgres.read_only import Ending, end_read_only_session, end_read_only_sessions


class PostgresDestination:
    """Writes the records of each stream to a table of its name. See ``protocols.Destination``.

    A table has the stream's primary key as text columns, the object as the source sent it in
    ``_raw_data``, its metadata in ``_account_id`` and ``_updated_at``, the time of the last write
    in ``_last_synced_at``, and a typed column for each field.
    """

    def __init__(self) -> None:
        self._pools = Pools()

    @property
    def config_model(self) -> type[PostgresConfig]:
        """Return the configuration model."""
        return PostgresConfig

    def spec(self) -> Spec:
        """Return the description of the destination."""
        return Spec(config_schema=config_schema(PostgresConfig), supports_reconcile=True)

    async def check(self, config: PostgresConfig, streams: Sequence[SelectedStream]) -> Messages:
        """Yield whether Postgres accepts the configuration and writes of these streams."""
        found, reached = Findings(), False
        try:
            tables = _tables(config, streams)
            async with self._pools.open(config) as pool:
                await _end_read_only_sessions(pool)
                found = await run_in_transaction(
                    pool,
                    config,
                    lambda connection: check_database(connection, config, tables),
                    retry_timeout=retry.CHECK_TIMEOUT,
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
        """Commit the records, and yield every message as the protocol requires.

        Missing tables are created first, so a sync works without setup.
        """
        tables = _tables(config, streams)
        async with self._pools.open(config) as pool:
            rejected = RejectionTracker(pool, config, tables)

            async def prepare() -> WriteStart:
                prepared = await prepare_write(
                    pool, config, tables, rejected, retry_timeout=retry.SYNC_TIMEOUT
                )
                recorder = CheckpointRecorder(config.schema_name, tables, files=prepared.files)
                return WriteStart(
                    logs=prepared.logs,
                    recorder=recorder if prepared.records_checkpoints else None,
                    refused=prepared.refused,
                )

            written = write_messages(pool, config, tables, messages, rejected, prepare)
            async with aclosing(written):
                async for message in written:
                    yield message

    async def resume(
        self, config: PostgresConfig, streams: Sequence[SelectedStream], request: ResumeRequest
    ) -> ResumeResult:
        """Compare a state with the recorded checkpoints. See ``protocols.CheckpointKeeper``."""
        return await resume(self._pools, config, _tables(config, streams), request)

    async def write_resumed(
        self,
        config: PostgresConfig,
        streams: Sequence[SelectedStream],
        messages: AsyncIterator[Message],
        resumed: ResumeResult,
    ) -> Messages:
        """Write and record checkpoints. See ``protocols.CheckpointKeeper``."""
        token = resumed.write_token
        if not isinstance(token, WriteToken):
            raise TypeError("write_resumed needs what resume of the same destination answered")
        tables = _tables(config, streams)
        async with self._pools.open(config) as pool:
            rejected = RejectionTracker(pool, config, tables, token.rejected)

            async def prepare() -> WriteStart:
                recorder = CheckpointRecorder(config.schema_name, tables, token.entries)
                return WriteStart(
                    logs=token.logs,
                    recorder=recorder if token.entries is not None else None,
                    refused=token.refused,
                )

            written = write_messages(pool, config, tables, messages, rejected, prepare)
            async with aclosing(written):
                async for message in written:
                    yield message

    async def retry_rejected(
        self, config: PostgresConfig, streams: Sequence[SelectedStream]
    ) -> RetryResult:
        """Retry the rejected records. See ``protocols.RejectedRecordKeeper``."""
        tables = _tables(config, streams)
        async with self._pools.open(config) as pool:
            rejected = RejectionTracker(pool, config, tables)
            prepared = await prepare_write(
                pool, config, tables, rejected, retry_timeout=retry.CALL_TIMEOUT
            )
            recorder = CheckpointRecorder(config.schema_name, tables, files=prepared.files)
            return await retry_rejected(
                pool,
                config,
                tables,
                writer_of(pool, config, tables, rejected),
                rejected,
                recorder if prepared.records_checkpoints else None,
            )

    def lifespan(self) -> AbstractAsyncContextManager[None]:
        """Keep connections for a few seconds between syncs. See ``protocols.KeepAlive``."""
        return self._pools.keep_alive()

    def stored_rows(
        self, config: PostgresConfig, streams: Sequence[SelectedStream]
    ) -> AbstractAsyncContextManager[PostgresStoredRows]:
        """Open the stored rows of these streams. See ``protocols.StoredRowsKeeper``."""
        return open_stored_rows(self._pools, config, streams)

    async def setup(self, config: PostgresConfig, streams: Sequence[SelectedStream]) -> Messages:
        """Create the schema, the tables, their columns and indexes where they are missing."""
        tables = _tables(config, streams)
        async with self._pools.open(config) as pool:
            prepared = await prepare_setup(pool, config, tables)
            logs = [*prepared.logs, *await owner_index.create_missing(pool, config, tables)]
        for log in logs:
            yield Message(log=log)

    async def teardown(self, config: PostgresConfig, streams: Sequence[SelectedStream]) -> Messages:
        """Drop the tables of these streams, and the schema if that leaves it empty, unless public.

        A table stays when it has rows of an account other than that of ``Stream.metadata``.

        Raises:
            ConnectorError: The schema is one of Postgres's own, or another object, such as a view,
                depends on a table.
        """
        tables = _tables(config, streams)
        async with self._pools.open(config) as pool:
            done = await run_in_transaction(
                pool,
                config,
                lambda connection: tear_down(connection, config.schema_name, tables),
                retry_timeout=retry.CALL_TIMEOUT,
            )
        for sentence in done:
            yield Message(log=Log(level=Log.LEVEL_INFO, message=sentence))

    async def plan_teardown(
        self, config: PostgresConfig, streams: Sequence[SelectedStream]
    ) -> Messages:
        """Yield the tables, rows and schema that teardown would remove, and logs of those it keeps.

        Raises:
            ConnectorError: The schema is one of Postgres's own.
        """
        tables = _tables(config, streams)
        async with self._pools.open(config) as pool:
            plan = await run_in_transaction(
                pool,
                config,
                lambda connection: plan_teardown(connection, config.schema_name, tables),
                retry_timeout=retry.CALL_TIMEOUT,
            )
        for removal in plan.removals:
            yield Message(planned_removal=removal)
        for sentence in plan.left:
            yield Message(log=Log(level=Log.LEVEL_INFO, message=sentence))


async def _end_read_only_sessions(pool: Pool) -> None:
    """End the read-only sessions that a pooler keeps: a check reports the present state.

    Raises:
        ConnectorError: As ``retry.Retries.use`` raises it.
    """
    retries = retry.Retries(pool, timeout=retry.CHECK_TIMEOUT)

    async def end(age: float) -> Ending:
        return await retries.use(partial(end_read_only_session, age=age))

    await end_read_only_sessions(end)


def _tables(config: PostgresConfig, streams: Sequence[SelectedStream]) -> list[Table]:
    return [table_of(selected, config.schema_name) for selected in streams]
