"""The beginning of a request: its tables are made and its state is compared, in one transaction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from engine_server.connectors.postgres.checkpoints.lineage import compare_and_record
from engine_server.connectors.postgres.checkpoints.lines import MovedLines, new_name
from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.pool import Connection, open_pool
from engine_server.connectors.postgres.preparation import prepare_resumed
from engine_server.connectors.postgres.rejected_records import HeldRejections, RejectedRecords
from engine_server.connectors.postgres.tables import Table
from engine_server.connectors.protocols import Resumed, ResumeRequest
from pipesync.v1.message_pb2 import Log


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

    Where checkpoints cannot be recorded, the state goes on without a lineage: its checkpoints are
    taken for an older version's once they can.
    """
    # The same for each try: the first may have been committed.
    lineage, epoch = new_name(), new_name()
    resumed = Resumed(destination="", positions={}, inputs_position=None, rewinds=[])

    async def compare(connection: Connection) -> None:
        nonlocal resumed
        resumed = await compare_and_record(
            connection, config.schema_name, tables, request, lineage=lineage, epoch=epoch
        )

    async with open_pool(config) as pool:
        rejected = RejectedRecords(pool, config, tables)
        prepared = await prepare_resumed(pool, config, tables, rejected, compare)
    lines = resumed.ticket
    locked = lines.locked if isinstance(lines, MovedLines) else {}
    ticket = WriteTicket(
        lines=lines if isinstance(lines, MovedLines) else None,
        rejected=rejected.held,
        logs=prepared.logs,
        refused={**locked, **prepared.refused},
    )
    return replace(resumed, ticket=ticket)
