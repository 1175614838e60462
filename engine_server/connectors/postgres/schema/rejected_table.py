"""The table of the records that Postgres refused: one in each schema, for all of its streams."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from engine_server.connectors.postgres.connection.pool import Connection
from engine_server.connectors.postgres.connection.transaction import Transaction
from engine_server.connectors.postgres.schema import own_key, tombstones
from engine_server.connectors.postgres.schema.own_key import OwnKey
from engine_server.connectors.postgres.schema.tables import ACCOUNT_ID, Table, literal, quote

NAME = "_pipesync_rejected"

_SQL = files(__package__)
_CREATE = _SQL.joinpath("create_rejected.sql").read_text()
_KEY = ("stream", "digest")
_ACCESS = _SQL.joinpath("rejected_access.sql").read_text().format(has_key=own_key.has_key(_KEY))
_HELD = _SQL.joinpath("rejected_held.sql").read_text()
_KEPT = _SQL.joinpath("rejected_kept.sql").read_text()
_UPDATE_TIMES = _SQL.joinpath("rejected_update_times.sql").read_text()
_PAGE = _SQL.joinpath("rejected_page.sql").read_text()
_DONE = _SQL.joinpath("rejected_done.sql").read_text()


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectedTableAccess:
    """The state of the table.

    Attributes:
        may_use: Whether our role may read and write it.
        has_key: Whether it has its primary key: without it, no record can be kept.
        may_add_key: Whether our role may give it one.
    """

    may_use: bool
    has_key: bool
    may_add_key: bool

    @property
    def is_usable(self) -> bool:
        """Whether our role can keep records in the table."""
        return self.may_use and self.has_key


def quoted(schema: str) -> str:
    """Return the qualified name of the schema's table, for SQL."""
    return f"{quote(schema)}.{quote(NAME)}"


def create_statement(schema: str) -> str:
    """Return SQL that creates the table."""
    return _CREATE.format(rejected=quoted(schema))


def held_statement(schema: str) -> str:
    """Return SQL that counts the kept records by stream."""
    return _HELD.format(rejected=quoted(schema))


def kept_statement(table: Table, *, hard_delete: bool) -> str:
    """Return SQL that keeps rejected records of ``table``."""
    stored_is_given = " AND ".join(
        f"stored.{quote(column.name)} = given.key[{number}]"
        for number, column in enumerate(table.key, start=1)
    )
    has_tombstones = hard_delete and table.soft_delete_field and table.newer_than_field
    return _KEPT.format(
        rejected=quoted(table.schema),
        stream=literal(table.stream),
        table=table.quoted,
        stored_is_given=stored_is_given,
        given_is_not_deleted=(
            f"AND NOT EXISTS (SELECT FROM {tombstones.quoted(table.schema)} AS tombstone "
            f"WHERE tombstone.table_name = {literal(table.name)} AND tombstone.key = given.key "
            "AND to_timestamp(given.updated_at) <= tombstone._updated_at)"
            if has_tombstones
            else ""
        ),
    )


def page_statement(schema: str) -> str:
    """Return SQL that reads rejected records of one stream, page by page."""
    return _PAGE.format(rejected=quoted(schema))


def done_statement(schema: str) -> str:
    """Return SQL that drops records that were retried and are no longer rejected."""
    return _DONE.format(rejected=quoted(schema))


def key_of(schema: str) -> OwnKey:
    """Return the primary key of the schema's table."""
    return OwnKey(quoted(schema), _KEY)


async def access(connection: Connection, schema: str) -> RejectedTableAccess | None:
    """Return the state of the table; None when there is none."""
    rows = await connection.fetch(_ACCESS, schema, NAME)
    return RejectedTableAccess(**rows[0]) if rows else None


async def held(
    connection: Connection, schema: str, tables: Sequence[Table]
) -> dict[str, tuple[int, int]]:
    """Return the kept records of each stream that has some: of its account, and of all accounts."""
    rows = await connection.fetch(
        held_statement(schema),
        [table.stream for table in tables],
        [table.account_id for table in tables],
    )
    return {row["stream"]: (row["of_account"], row["of_all_accounts"]) for row in rows}


async def update_times(
    transaction: Transaction, table: Table, account_id: str, ids: Sequence[str]
) -> dict[str, int]:
    """Return the update times of the rejected records with these ids, in Unix seconds.

    Args:
        transaction: The transaction.
        table: The table of the stream.
        account_id: The account of the records; empty where it is unknown.
        ids: Their ids.
    """
    position = next((n for n, column in enumerate(table.key, 1) if column.path == ("id",)), None)
    found = await transaction.fetch(_ACCESS, table.schema, NAME)
    if position is None or not found or not found[0]["may_use"]:
        return {}
    statement = _UPDATE_TIMES.format(rejected=quoted(table.schema))
    rows = await transaction.fetch(statement, table.stream, position, ids, account_id)
    return {row["id"]: row["update_time"] for row in rows}


async def forget_stream(connection: Connection, table: Table, account_id: str | None) -> None:
    """Delete the rejected records of a table that is dropped, or those of one account.

    Args:
        connection: In the transaction that removes the rows.
        table: The table of the stream.
        account_id: The account of the records; None for all accounts.
    """
    if await access(connection, table.schema) is None:
        return
    await connection.execute(
        f"DELETE FROM {quoted(table.schema)} "  # noqa: S608 - names of our own
        f"WHERE stream = $1 AND ($2::text IS NULL OR {ACCOUNT_ID} = $2)",
        table.stream,
        account_id,
    )


async def drop_if_last(connection: Connection, schema: str) -> str:
    """Drop the table when the schema has no more tables of streams.

    Returns:
        A sentence that says so; empty when it stays, or does not exist.
    """
    if await access(connection, schema) is None or await tombstones.has_tables(connection, schema):
        return ""
    await connection.execute(f"DROP TABLE {quoted(schema)}")
    return f"dropped table {quoted(schema)}"
