"""Start of a request: creates its tables and compares its state, in one transaction."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from engine_server.connectors.postgres.checkpoints.entries import (
    MovedEntries,
    lineage_of,
    new_name,
)
from engine_server.connectors.postgres.checkpoints.lineage import compare_and_record
from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.connection.pool import Connection
from engine_server.connectors.postgres.connection.pools import Pools
from engine_server.connectors.postgres.rejection.rejection_tracker import (
    HeldRejections,
    RejectionTracker,
)
from engine_server.connectors.postgres.schema.tables import Table
from engine_server.connectors.postgres.setup.preparation import prepare_resumed
from engine_server.connectors.protocols import ResumeRequest, ResumeResult
from pipesync.v1.message_pb2 import Log
from pipesync.v1.state_pb2 import SyncState


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteToken:
    """Facts that a write need not look up again.

    Attributes:
        entries: The entries that the write moves; None where checkpoints cannot be recorded.
        rejected: The rejected records that are kept.
        logs: Messages about the tables, for the write to yield.
        refused: The reason for each stream that has no table, or none that can be read now.
    """

    entries: MovedEntries | None
    rejected: HeldRejections
    logs: Sequence[Log]
    refused: Mapping[str, str] = field(default_factory=dict)


async def resume(
    pools: Pools, config: PostgresConfig, tables: Sequence[Table], request: ResumeRequest
) -> ResumeResult:
    """Create the tables, compare, and begin a new epoch. See ``protocols.CheckpointKeeper``.

    Where checkpoints cannot be recorded, the state keeps its lineage, if it has one, and a
    checkpoint that moves loses its position. Once they can be recorded again, its stream continues
    from its entry.

    Where rows stay that are to be read again, the call returns once a read is newer than the rows.
    """
    # The same for each try: an earlier try may have been committed.
    lineage, epoch = new_name(), new_name()
    resumed = _as_it_is(request.state)

    async def compare(connection: Connection) -> None:
        nonlocal resumed
        resumed = await compare_and_record(
            connection, config.schema_name, tables, request, lineage=lineage, epoch=epoch
        )

    async with pools.open(config) as pool:
        rejected = RejectionTracker(pool, config, tables)
        prepared = await prepare_resumed(pool, config, tables, rejected, compare)
    entries = resumed.write_token if isinstance(resumed.write_token, MovedEntries) else None
    if entries is not None and entries.settling:
        await asyncio.sleep(entries.settling)
    locked = entries.locked if entries is not None else {}
    token = WriteToken(
        entries=entries,
        rejected=rejected.held,
        logs=prepared.logs,
        refused={**locked, **prepared.refused},
    )
    return replace(resumed, write_token=token)


def _as_it_is(state: SyncState) -> ResumeResult:
    """Return the outcome where no entries can be compared.

    A backup may have been restored without the privileges on its entries. Without its lineage, the
    state would be trusted once they are granted.
    """
    if not lineage_of(state.destination):
        return ResumeResult(destination="", positions={}, inputs_position=None, rewinds=[])
    inputs_position = state.inputs_position if state.HasField("inputs_position") else None
    return ResumeResult(
        destination=state.destination,
        positions=dict(state.positions),
        inputs_position=inputs_position,
        rewinds=[],
    )
