"""Schemas: set up, torn down, and looked into."""

import asyncpg

from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.destination import PostgresDestination
from engine_server.connectors.protocols import SelectedStream
from tests.engine_server.connectors.postgres.builders import logs


async def set_up(config: PostgresConfig, *streams: SelectedStream) -> list[str]:
    """What setup logs."""
    return await logs(PostgresDestination().setup(config, streams))


async def tear_down(config: PostgresConfig, *streams: SelectedStream) -> list[str]:
    """What teardown logs."""
    return await logs(PostgresDestination().teardown(config, streams))


async def row_count(database: asyncpg.Connection, table: str) -> int:
    """How many rows a table of the schema ``stripe`` has."""
    count: int = await database.fetchval(f"SELECT count(*) FROM stripe.{table}")  # noqa: S608 - ours
    return count


async def columns_of(database: asyncpg.Connection, table: str) -> dict[str, str]:
    """Each column's type, with a v when it is virtual and an s when it is stored."""
    rows = await database.fetch(
        """
        SELECT attname, format_type(atttypid, atttypmod) AS type, attgenerated::text AS generated
        FROM pg_attribute
        WHERE attrelid = $1::text::regclass AND attnum > 0
        """,
        table,
    )
    return {row["attname"]: f"{row['type']} {row['generated']}".strip() for row in rows}


async def tables_of(database: asyncpg.Connection, schema: str = "stripe") -> list[str]:
    """The tables there are."""
    rows = await database.fetch(
        "SELECT tablename FROM pg_tables WHERE schemaname = $1 ORDER BY 1", schema
    )
    return [row["tablename"] for row in rows]
