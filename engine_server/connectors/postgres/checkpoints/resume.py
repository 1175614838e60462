"""The beginning of a request: its tables are made and its state is compared, in one transaction."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from engine_server.connectors.postgres.checkpoints.lineage import compare_and_record
from engine_server.connectors.postgres.checkpoints.lines import (
    MovedLines,
    lineage_of,
    new_name,
)
from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.pool import Connection, open_pool
from engine_server.connectors.postgres.preparation import prepare_resumed
from engine_server.connectors.postgres.rejected_records import HeldRejections, RejectedRecords
from engine_server.connectors.postgres.tables import Table
from engine_server.connectors.protocols import Resumed, ResumeRequest
from pipesync.v1.message_pb2 import Log
from pipesync.v1.state_pb2 import SyncState


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteTicket:
    """What a write need not look up again.

    Attributes:
        lines: The lines that it moves; None where checkpoints cannot be recorded.
        rejected: The rejected records that are held.
        logs: What the write has to say of the tables.
        refused: The reason for each stream that has no table, or none that can be read now.
    """

    lines: MovedLines | None
    rejected: HeldRejections
    logs: Sequence[Log]
    refused: Mapping[str, str] = field(default_factory=dict)


async def resume(
    config: PostgresConfig, tables: Sequence[Table], request: ResumeRequest
) -> Resumed:
    """Make the tables, compare, and begin a new epoch. See ``protocols.CheckpointKeeper``.

    Where checkpoints cannot be recorded, the state keeps its lineage, if it has one, and a
    checkpoint that moves loses its position: once they can be recorded again, its stream goes on
    from its line.

    Where rows stay that are to be read again, it returns once a read is newer than these.
    """
    # The same for each try: the first may have been committed.
    lineage, epoch = new_name(), new_name()
    resumed = _as_it_is(request.state)

    async def compare(connection: Connection) -> None:
        nonlocal resumed
        resumed = await compare_and_record(
            connection, config.schema_name, tables, request, lineage=lineage, epoch=epoch
        )

    async with open_pool(config) as pool:
        rejected = RejectedRecords(pool, config, tables)
        prepared = await prepare_resumed(pool, config, tables, rejected, compare)
    lines = resumed.ticket if isinstance(resumed.ticket, MovedLines) else None
    if lines is not None and lines.settling:
        await asyncio.sleep(lines.settling)
    locked = lines.locked if lines is not None else {}
    ticket = WriteTicket(
        lines=lines,
        rejected=rejected.held,
        logs=prepared.logs,
        refused={**locked, **prepared.refused},
    )
    return replace(resumed, ticket=ticket)


def _as_it_is(state: SyncState) -> Resumed:
    """Return the outcome where nothing is compared.

    A backup may have been restored without the rights to its lines. A state that forgot its lineage
    would be believed once they are granted.
    """
    if not lineage_of(state.destination):
        return Resumed(destination="", positions={}, inputs_position=None, rewinds=[])
    inputs_position = state.inputs_position if state.HasField("inputs_position") else None
    return Resumed(
        destination=state.destination,
        positions=dict(state.positions),
        inputs_position=inputs_position,
        rewinds=[],
    )
