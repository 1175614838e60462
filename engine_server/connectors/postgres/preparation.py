"""The transaction in which a request finds or makes all that it writes to."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from engine_server.connectors.postgres import making, retry
from engine_server.connectors.postgres.ask import ask
from engine_server.connectors.postgres.checkpoints import table as checkpoints
from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.definition import Differences
from engine_server.connectors.postgres.pool import Connection, Pool
from engine_server.connectors.postgres.rejected_records import RejectedRecords
from engine_server.connectors.postgres.tables import Table
from pipesync.v1.message_pb2 import Log

# Seconds that a sync waits at its beginning for a table that others lock, before it goes on with
# the other tables.
_LOCK_PATIENCE = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What was found and made.

    Attributes:
        logs: A message for each thing that was made, or stays other than it should be.
        records_checkpoints: Whether our role may use the table of recorded checkpoints.
        refused: The reason for each stream that cannot be written: it has no table.
        files: As ``checkpoints.Emptiness`` has them; empty where lines were compared, or cannot be.
    """

    logs: Sequence[Log]
    records_checkpoints: bool
    refused: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, int | None] = field(default_factory=dict)


async def prepare_setup(pool: Pool, config: PostgresConfig, tables: Sequence[Table]) -> Prepared:
    """Makes all that is missing."""

    async def make(connection: Connection) -> Prepared:
        differences = await _make_missing(connection, config, tables, for_sync=False)
        return await _prepared(connection, config, tables, differences)

    return await ask(pool, config, make, patience=retry.CALL_PATIENCE)


async def prepare_write(
    pool: Pool,
    config: PostgresConfig,
    tables: Sequence[Table],
    rejected: RejectedRecords,
    *,
    patience: float,
) -> Prepared:
    """Makes what a write needs that records no checkpoints.

    Recorded checkpoints of emptied tables are dropped: the first rows would hide that these are
    empty.

    Args:
        pool: Where to make it.
        config: The pool's.
        tables: The tables that are written to.
        rejected: Looks up which streams have rejected records.
        patience: Seconds for which faults are waited out.
    """

    async def make(connection: Connection) -> Prepared:
        differences = await _make_missing(connection, config, tables)
        await rejected.look(connection)
        access = await checkpoints.access(connection, config.schema_name)
        files: Mapping[str, int | None] = {}
        if access.may_use:
            found = await checkpoints.forget_emptied(connection, config.schema_name, tables)
            files = found.files
        return Prepared(
            logs=_logs(differences.missing, differences.warnings),
            records_checkpoints=bool(access.is_usable),
            refused=differences.refused,
            files=files,
        )

    return await ask(pool, config, make, patience=patience)


async def prepare_resumed(
    pool: Pool,
    config: PostgresConfig,
    tables: Sequence[Table],
    rejected: RejectedRecords,
    compare: Callable[[Connection], Awaitable[None]],
) -> Prepared:
    """Makes what a write needs that records checkpoints, and compares those that there are.

    Args:
        pool: Where to make it.
        config: The pool's.
        tables: The tables that are written to.
        rejected: Looks up which streams have rejected records.
        compare: Compares, in the same transaction, where checkpoints can be recorded.
    """

    async def make(connection: Connection) -> Prepared:
        differences = await _make_missing(connection, config, tables)
        await rejected.look(connection)
        prepared = await _prepared(connection, config, tables, differences)
        if prepared.records_checkpoints:
            await compare(connection)
        return prepared

    return await ask(pool, config, make, patience=retry.SYNC_PATIENCE, lock_patience=_LOCK_PATIENCE)


async def _make_missing(
    connection: Connection,
    config: PostgresConfig,
    tables: Sequence[Table],
    *,
    for_sync: bool = True,
) -> Differences:
    return await making.make_missing(
        connection,
        config.schema_name,
        tables,
        config.columns,
        hard_delete=config.deletes_for_good,
        for_sync=for_sync,
    )


async def _prepared(
    connection: Connection,
    config: PostgresConfig,
    tables: Sequence[Table],
    differences: Differences,
) -> Prepared:
    """Makes the table of recorded checkpoints as well."""
    access, made = await checkpoints.make_missing(connection, config.schema_name)
    obstacle = access.obstacle(config.schema_name)
    if access.may_use and not access.is_usable:
        # Lines that cannot be compared now are believed once they can be.
        await checkpoints.forget_emptied(connection, config.schema_name, tables)
    return Prepared(
        logs=_logs(
            [*differences.missing, *([made] if made else [])],
            [*differences.warnings, *([obstacle] if obstacle else [])],
        ),
        records_checkpoints=bool(access.is_usable),
        refused=differences.refused,
    )


def _logs(made: Iterable[str], warnings: Iterable[str]) -> Sequence[Log]:
    return [
        *(Log(level=Log.LEVEL_INFO, message=sentence) for sentence in made),
        *(Log(level=Log.LEVEL_WARN, message=sentence) for sentence in warnings),
    ]
