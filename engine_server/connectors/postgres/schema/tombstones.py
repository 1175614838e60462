"""Tombstones: the keys and times of permanently deleted rows, so that older records stay away.

Only ``delete_mode: hard`` needs them; otherwise the row itself is marked as deleted. Each schema
has one table of tombstones, for all of its tables.
"""

from dataclasses import dataclass
from importlib.resources import files

from engine_server.connectors.postgres.connection.pool import Connection
from engine_server.connectors.postgres.schema import own_key
from engine_server.connectors.postgres.schema.own_key import OwnKey
from engine_server.connectors.postgres.schema.tables import LAST_SYNCED_AT, Table, literal, quote

NAME = "_pipesync_deleted"

_SQL = files(__package__)
_CREATE = _SQL.joinpath("create_tombstones.sql").read_text()
_KEY = ("table_name", "key")
_ACCESS = _SQL.joinpath("tombstones_access.sql").read_text().format(has_key=own_key.has_key(_KEY))
# Twice the time for which events exist. Stripe delivers a webhook for three days, and lists events
# for thirty (https://docs.stripe.com/webhooks, https://docs.stripe.com/api/events).
_DELETE_EXPIRED = "DELETE FROM {tombstones} WHERE _noted_at < now() - interval '60 days'"
# Only tables of streams have this column.
_OTHERS = f"""
    SELECT EXISTS (
        SELECT
        FROM pg_catalog.pg_attribute AS attribute
        JOIN pg_catalog.pg_class AS table_ ON table_.oid = attribute.attrelid
        JOIN pg_catalog.pg_namespace AS schema_ ON schema_.oid = table_.relnamespace
        WHERE schema_.nspname = $1 AND attribute.attname = {literal(LAST_SYNCED_AT)}
    )
"""  # noqa: S608 - a name of our own


@dataclass(frozen=True, slots=True, kw_only=True)
class TombstonesAccess:
    """The state of the table.

    Attributes:
        has_key: Whether it has its primary key.
        may_add_key: Whether our role may give it one.
    """

    has_key: bool
    may_add_key: bool


def quoted(schema: str) -> str:
    """Return the qualified name of the schema's table, for SQL."""
    return f"{quote(schema)}.{quote(NAME)}"


def create_statement(schema: str) -> str:
    """Return SQL that creates the table."""
    return _CREATE.format(tombstones=quoted(schema))


def key_of(schema: str) -> OwnKey:
    """Return the primary key of the schema's table."""
    return OwnKey(quoted(schema), _KEY)


def are_kept(table: Table) -> bool:
    """Return whether permanent deletions from a stream's table leave tombstones."""
    return bool(table.soft_delete_field and table.newer_than_field)


async def access(connection: Connection, schema: str) -> TombstonesAccess | None:
    """Return the state of the table; None when the schema has none."""
    rows = await connection.fetch(_ACCESS, schema, NAME)
    return TombstonesAccess(**rows[0]) if rows else None


async def exists(connection: Connection, schema: str) -> bool:
    """Return whether the schema has the table."""
    return await access(connection, schema) is not None


async def delete_expired(connection: Connection, schema: str) -> None:
    """Delete tombstones that are older than any record that may still arrive."""
    await connection.execute(_DELETE_EXPIRED.format(tombstones=quoted(schema)))


async def delete_for_table(connection: Connection, table: Table, account_id: str | None) -> None:
    """Delete the tombstones of a table that is dropped, or those of one account in it.

    Args:
        connection: In the transaction that removes the rows.
        table: The table of the rows.
        account_id: The account of the rows; None for all accounts.
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
    """Return whether the schema has a table of a stream."""
    found: bool = await connection.fetchval(_OTHERS, schema)
    return found


async def drop_if_last(connection: Connection, schema: str) -> str:
    """Drop the table when the schema has no more tables of streams.

    Returns:
        A sentence that says so; empty when it stays, or does not exist.
    """
    name = quoted(schema)
    if not await exists(connection, schema) or await has_tables(connection, schema):
        return ""
    await connection.execute(f"DROP TABLE {name}")
    return f"dropped table {name}"
