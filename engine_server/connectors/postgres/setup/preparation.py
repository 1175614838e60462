"""Preparation of a request: one transaction finds or creates its tables."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from engine_server.connectors.postgres.checkpoints import lost_rows
from engine_server.connectors.postgres.checkpoints import table as checkpoints
from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.connection import retry
from engine_server.connectors.postgres.connection.catalog_transaction import run_in_transaction
from engine_server.connectors.postgres.connection.pool import Connection, Pool
from engine_server.connectors.postgres.rejection.rejection_tracker import RejectionTracker
from engine_server.connectors.postgres.schema.tables import Table
from engine_server.connectors.postgres.setup import creation
from engine_server.connectors.postgres.setup.creation import CreationResult
from pipesync.v1.message_pb2 import Log

# Seconds that a sync waits at its beginning for a locked table, before it continues with the other
# tables.
_LOCK_TIMEOUT = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """The prepared tables.

    Attributes:
        logs: A message for each created or unsuitable object.
        records_checkpoints: Whether our role may use the table of recorded checkpoints.
        refused: The reason for each stream that cannot be written: it has no table.
        files: See ``lost_rows.Emptiness``; empty where entries were compared, or cannot be.
    """

    logs: Sequence[Log]
    records_checkpoints: bool
    refused: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, int | None] = field(default_factory=dict)


async def prepare_setup(pool: Pool, config: PostgresConfig, tables: Sequence[Table]) -> Prepared:
    """Create everything that is missing."""

    async def make(connection: Connection) -> Prepared:
        created = await _create_missing(connection, config, tables, for_sync=False)
        return await _prepared(connection, config, tables, created)

    return await run_in_transaction(pool, config, make, retry_timeout=retry.CALL_TIMEOUT)


async def prepare_write(
    pool: Pool,
    config: PostgresConfig,
    tables: Sequence[Table],
    rejected: RejectionTracker,
    *,
    retry_timeout: float,
) -> Prepared:
    """Create the tables of a write that does not record checkpoints.

    The recorded checkpoints of emptied tables are deleted: the first rows would hide that the
    tables were emptied.

    Args:
        pool: The pool.
        config: The configuration of the pool.
        tables: The tables that are written to.
        rejected: Looks up which streams have rejected records.
        retry_timeout: Seconds for which transient errors are retried.
    """

    async def make(connection: Connection) -> Prepared:
        created = await _create_missing(connection, config, tables)
        await rejected.look(connection)
        access = await checkpoints.access(connection, config.schema_name)
        files: Mapping[str, int | None] = {}
        if access.may_use:
            found = await lost_rows.forget_emptied(connection, config.schema_name, tables)
            files = found.files
        return Prepared(
            logs=_logs(created.made, created.warnings),
            records_checkpoints=bool(access.is_usable),
            refused=created.refused,
            files=files,
        )

    return await run_in_transaction(pool, config, make, retry_timeout=retry_timeout)


async def prepare_resumed(
    pool: Pool,
    config: PostgresConfig,
    tables: Sequence[Table],
    rejected: RejectionTracker,
    compare: Callable[[Connection], Awaitable[None]],
) -> Prepared:
    """Create the tables of a write that records checkpoints, and compare the recorded ones.

    Args:
        pool: The pool.
        config: The configuration of the pool.
        tables: The tables that are written to.
        rejected: Looks up which streams have rejected records.
        compare: Compares in the same transaction; called where checkpoints can be recorded.
    """

    async def make(connection: Connection) -> Prepared:
        created = await _create_missing(connection, config, tables)
        await rejected.look(connection)
        prepared = await _prepared(connection, config, tables, created)
        if prepared.records_checkpoints:
            await compare(connection)
        return prepared

    return await run_in_transaction(
        pool,
        config,
        make,
        retry_timeout=retry.SYNC_TIMEOUT,
        lock_timeout=_LOCK_TIMEOUT,
        reads_records=True,
    )


async def _create_missing(
    connection: Connection,
    config: PostgresConfig,
    tables: Sequence[Table],
    *,
    for_sync: bool = True,
) -> CreationResult:
    return await creation.create_missing(
        connection,
        config.schema_name,
        tables,
        config.columns,
        hard_delete=config.hard_deletes,
        for_sync=for_sync,
    )


async def _prepared(
    connection: Connection,
    config: PostgresConfig,
    tables: Sequence[Table],
    created: CreationResult,
) -> Prepared:
    """Create the table of recorded checkpoints, and return the prepared tables."""
    access, made = await checkpoints.create_missing(connection, config.schema_name)
    obstacle = access.obstacle(config.schema_name)
    if access.may_use and not access.is_usable:
        # Entries that cannot be compared now would be trusted once they can be.
        await lost_rows.forget_emptied(connection, config.schema_name, tables)
    return Prepared(
        logs=_logs(
            [*created.made, *([made] if made else [])],
            [*created.warnings, *([obstacle] if obstacle else [])],
        ),
        records_checkpoints=bool(access.is_usable),
        refused=created.refused,
    )


def _logs(made: Iterable[str], warnings: Iterable[str]) -> Sequence[Log]:
    return [
        *(Log(level=Log.LEVEL_INFO, message=sentence) for sentence in made),
        *(Log(level=Log.LEVEL_WARN, message=sentence) for sentence in warnings),
    ]
