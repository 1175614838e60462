"""Which rows were deleted for good, and as of when: what is older and comes late must not be back.

Only ``delete_mode: hard`` needs it; otherwise the row itself tells. One table a schema, for all
tables in it.
"""

from dataclasses import dataclass
from importlib.resources import files

from engine_server.connectors.postgres import own_key
from engine_server.connectors.postgres.own_key import OwnKey
from engine_server.connectors.postgres.pool import Connection
from engine_server.connectors.postgres.tables import LAST_SYNCED_AT, Table, literal, quote

NAME = "_pipesync_deleted"

_SQL = files(__package__)
_CREATE = _SQL.joinpath("create_deleted.sql").read_text()
_KEY = ("table_name", "key")
_ACCESS = _SQL.joinpath("deleted_access.sql").read_text().format(has_key=own_key.has_key(_KEY))
# Stripe delivers a webhook for three days, and tells of events for thirty
# (https://docs.stripe.com/webhooks, https://docs.stripe.com/api/events): twice that is enough.
_FORGET = "DELETE FROM {deleted} WHERE _noted_at < now() - interval '60 days'"
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """The state of the table.

    Attributes:
        has_key: Whether it has its primary key.
        may_add_key: Whether our role may give it one.
    """

    has_key: bool
    may_add_key: bool


def quoted(schema: str) -> str:
    """The qualified name of the schema's table, for SQL."""
    return f"{quote(schema)}.{quote(NAME)}"


def create_statement(schema: str) -> str:
    """SQL that makes the table."""
    return _CREATE.format(deleted=quoted(schema))


def key_of(schema: str) -> OwnKey:
    """The primary key of the schema's table."""
    return OwnKey(quoted(schema), _KEY)


def are_noted(table: Table) -> bool:
    """Return whether a stream's permanent deletions are noted."""
    return bool(table.soft_delete_field and table.newer_than_field)


async def access(connection: Connection, schema: str) -> Access | None:
    """Look the table up; None when the schema has none."""
    rows = await connection.fetch(_ACCESS, schema, NAME)
    return Access(**rows[0]) if rows else None


async def exists(connection: Connection, schema: str) -> bool:
    """Whether the schema has the table."""
    return await access(connection, schema) is not None


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
