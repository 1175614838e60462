"""Setup, teardown and lookups of schemas."""

import asyncpg

from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.protocols import SelectedStream
from tests.engine_server.connectors.postgres.builders import (
    DESTINATION,
    OWN_TABLES,
    REJECTED_TABLE,
    logs,
)


async def set_up(config: PostgresConfig, *streams: SelectedStream) -> list[str]:
    """Set up, and return the logged sentences."""
    return await logs(DESTINATION.setup(config, streams))


async def tear_down(config: PostgresConfig, *streams: SelectedStream) -> list[str]:
    """Tear down, and return the logged sentences."""
    return await logs(DESTINATION.teardown(config, streams))


async def row_count(database: asyncpg.Connection, table: str) -> int:
    """Return the number of rows of a table of the schema ``stripe``."""
    count: int = await database.fetchval(f"SELECT count(*) FROM stripe.{table}")  # noqa: S608 - ours
    return count


async def columns_of(database: asyncpg.Connection, table: str) -> dict[str, str]:
    """Return each column's type, with a v when it is virtual and an s when it is stored."""
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
    """Return the tables, except internal ones."""
    rows = await database.fetch(
        "SELECT tablename FROM pg_tables WHERE schemaname = $1 ORDER BY 1", schema
    )
    return [row["tablename"] for row in rows if row["tablename"] not in OWN_TABLES]


async def rejected_rows(database: asyncpg.Connection) -> list[asyncpg.Record]:
    """Return the rejected records, in the order of their first refusals."""
    rows: list[asyncpg.Record] = await database.fetch(
        f"SELECT * FROM stripe.{REJECTED_TABLE} ORDER BY first_time, stream, key, digest"  # noqa: S608 - ours
    )
    return rows


async def break_at(database: asyncpg.Connection, table: str, poison: str) -> None:
    """Make the table fail for a row with this id: its trigger lacks a table."""
    await database.execute(
        f"""
        CREATE FUNCTION stripe.break_{table}() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF NEW.id = '{poison}' THEN
                PERFORM FROM stripe.no_such_table;
            END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER breaks BEFORE INSERT OR UPDATE ON stripe.{table}
            FOR EACH ROW EXECUTE FUNCTION stripe.break_{table}()
        """
    )


async def refuse_with(
    database: asyncpg.Connection, sqlstate: str = "P0001", table: str = "customers"
) -> None:
    """Make a trigger refuse each row whose _raw_data has a true field ``bad``."""
    await database.execute(
        f"""
        CREATE FUNCTION stripe.refuse_{table}() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF NEW._raw_data @> '{{"bad": true}}' THEN
                RAISE EXCEPTION 'no %, says "%"', NEW.id, NEW._raw_data
                    USING ERRCODE = '{sqlstate}';
            END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER refuses BEFORE INSERT OR UPDATE ON stripe.{table}
            FOR EACH ROW EXECUTE FUNCTION stripe.refuse_{table}()
        """
    )
