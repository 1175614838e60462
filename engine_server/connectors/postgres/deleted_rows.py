"""Which rows were deleted for good, and as of when: what is older and comes late must not be back.

Only ``delete_mode: hard`` needs it; otherwise the row itself tells. One table a schema, for all
tables in it.
"""

from importlib.resources import files

from engine_server.connectors.postgres.pool import Connection
from engine_server.connectors.postgres.tables import LAST_SYNCED_AT, Table, literal, quote

NAME = "_pipesync_deleted"

_CREATE = files(__package__).joinpath("create_deleted.sql").read_text()
# Stripe delivers a webhook for three days, and tells of events for thirty
# (https://docs.stripe.com/webhooks, https://docs.stripe.com/api/events): twice that is enough.
_FORGET = "DELETE FROM {deleted} WHERE _noted_at < now() - interval '60 days'"
_EXISTS = """
    SELECT EXISTS (
        SELECT
        FROM pg_catalog.pg_class AS table_
        JOIN pg_catalog.pg_namespace AS schema_ ON schema_.oid = table_.relnamespace
        WHERE schema_.nspname = $1 AND table_.relname = $2
    )
"""

# Only tables that streams are written to have this column.
_OTHERS = f"""
    SELECT EXISTS (
        SELECT
        FROM pg_catalog.pg_attribute AS attribute
        JOIN pg_catalog.pg_class AS table_ ON table_.oid = attribute.attrelid
        JOIN pg_catalog.pg_namespace AS schema_ ON schema_.oid = table_.relnamespace
        WHERE schema_.nspname = $1 AND attribute.attname = {literal(LAST_SYNCED_AT)}
    )
"""  # noqa: S608 - a name of our own


def quoted(schema: str) -> str:
    """The qualified name of the schema's table, for SQL."""
    return f"{quote(schema)}.{quote(NAME)}"


def create_statement(schema: str) -> str:
    """SQL that makes the table."""
    return _CREATE.format(deleted=quoted(schema))


async def exists(connection: Connection, schema: str) -> bool:
    """Whether the schema has the table."""
    found: bool = await connection.fetchval(_EXISTS, schema, NAME)
    return found


async def forget_old(connection: Connection, schema: str) -> None:
    """Forgets the rows of which nothing can come any more."""
    await connection.execute(_FORGET.format(deleted=quoted(schema)))


async def forget_table(connection: Connection, table: Table, account_id: str | None) -> None:
    """Forgets the deleted rows of a table that is dropped, or those of one account in it.

    Args:
        connection: In the transaction that removes the others.
        table: Whose rows.
        account_id: The account that they were of; None for all.
    """
    if not await exists(connection, table.schema):
        return
    await connection.execute(
        f"DELETE FROM {quoted(table.schema)} "  # noqa: S608 - names of our own
        "WHERE table_name = $1 AND ($2::text IS NULL OR _account_id = $2)",
        table.name,
        account_id,
    )


async def has_tables(connection: Connection, schema: str) -> bool:
    """Whether the schema has a table that a stream is written to."""
    found: bool = await connection.fetchval(_OTHERS, schema)
    return found


async def drop_if_last(connection: Connection, schema: str) -> str:
    """Drops the table when it is the last of ours in the schema: no pipeline writes there any more.

    Returns:
        A sentence that says so; empty when it stays, or was never made.
    """
    name = quoted(schema)
    if not await exists(connection, schema) or await has_tables(connection, schema):
        return ""
    await connection.execute(f"DROP TABLE {name}")
    return f"dropped table {name}"
