"""Facts about the table of recorded checkpoints that a check tells."""

from engine_server.connectors.postgres.checkpoints import table
from engine_server.connectors.postgres.pool import Connection


async def checkpoint_notices(connection: Connection, schema: str) -> list[str]:
    """Answers a sentence where checkpoints cannot be recorded."""
    obstacle = (await table.access(connection, schema)).obstacle(schema)
    return [obstacle] if obstacle else []
