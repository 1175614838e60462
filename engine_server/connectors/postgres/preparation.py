"""The transaction in which a request finds or makes all that it writes to."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from engine_server.connectors.postgres import definition, retry
from engine_server.connectors.postgres.ask import ask
from engine_server.connectors.postgres.checkpoints import table as checkpoints
from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.pool import Connection, Pool
from engine_server.connectors.postgres.rejected_records import RejectedRecords
from engine_server.connectors.postgres.tables import Table
from pipesync.v1.message_pb2 import Log


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What was found and made.

    Attributes:
        logs: A message for each thing that was made, or stays other than it should be.
        records_checkpoints: Whether our role may use the table of recorded checkpoints.
    """

    logs: Sequence[Log] = field(default_factory=list)
    records_checkpoints: bool = False


async def prepare_setup(pool: Pool, config: PostgresConfig, tables: Sequence[Table]) -> Prepared:
    """Makes all that is missing."""
    return await ask(
        pool, config, partial(_make, config, tables, None), patience=retry.CALL_PATIENCE
    )


async def prepare_write(
    pool: Pool,
    config: PostgresConfig,
    tables: Sequence[Table],
    rejected: RejectedRecords,
    *,
    patience: float,
    resume: Callable[[Connection], Awaitable[None]] | None = None,
) -> Prepared:
    """Makes what a write needs, and looks which of its streams have rejected records.

    Args:
        pool: Where to make it.
        config: The pool's.
        tables: The tables that are written to.
        rejected: Is told of the rejected records.
        patience: Seconds for which faults are waited out.
        resume: Compares recorded checkpoints, in the same transaction, where there are any. Without
            it, those of emptied tables are dropped: the first rows would hide that these are empty.
    """

    async def make(connection: Connection) -> Prepared:
        prepared = await _make(config, tables, rejected, connection)
        await rejected.look(connection)
        if prepared.records_checkpoints:
            if resume is not None:
                await resume(connection)
            else:
                await checkpoints.forget_emptied(connection, config.schema_name, tables)
        return prepared

    return await ask(pool, config, make, patience=patience)


async def _make(
    config: PostgresConfig,
    tables: Sequence[Table],
    rejected: RejectedRecords | None,
    connection: Connection,
) -> Prepared:
    schema = config.schema_name
    differences = await definition.make_missing(
        connection,
        schema,
        tables,
        config.columns,
        hard_delete=config.deletes_for_good,
        keeps_rejected=rejected is None,
        columns_can_wait=rejected is not None,
    )
    access, made = await checkpoints.make_missing(connection, schema)
    sentences = [*differences.missing, *([made] if made else [])]
    warnings = list(differences.warnings)
    if obstacle := access.obstacle(schema):
        warnings.append(obstacle)
    logs = [Log(level=Log.LEVEL_INFO, message=sentence) for sentence in sentences]
    logs += [Log(level=Log.LEVEL_WARN, message=sentence) for sentence in warnings]
    return Prepared(logs=logs, records_checkpoints=bool(access.is_usable))
