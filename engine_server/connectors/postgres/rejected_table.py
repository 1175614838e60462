"""The table of the records that Postgres refused: one a schema, for all streams written to it."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from engine_server.connectors.postgres import deleted_rows, own_key
from engine_server.connectors.postgres.own_key import OwnKey
from engine_server.connectors.postgres.pool import Connection
from engine_server.connectors.postgres.tables import ACCOUNT_ID, Table, literal, quote
from engine_server.connectors.postgres.transaction import Transaction

NAME = "_pipesync_rejected"

_SQL = files(__package__)
_CREATE = _SQL.joinpath("create_rejected.sql").read_text()
_KEY = ("stream", "digest")
_ACCESS = _SQL.joinpath("rejected_access.sql").read_text().format(has_key=own_key.has_key(_KEY))
_HELD = _SQL.joinpath("rejected_held.sql").read_text()
_KEPT = _SQL.joinpath("rejected_kept.sql").read_text()
_STAMPED = _SQL.joinpath("rejected_stamped.sql").read_text()
_PAGE = _SQL.joinpath("rejected_page.sql").read_text()
_DONE = _SQL.joinpath("rejected_done.sql").read_text()


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
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
        """Return whether our role can keep records in the table."""
        return self.may_use and self.has_key


def quoted(schema: str) -> str:
    """The qualified name of the schema's table, for SQL."""
    return f"{quote(schema)}.{quote(NAME)}"


def create_statement(schema: str) -> str:
    """SQL that makes the table."""
    return _CREATE.format(rejected=quoted(schema))


def held_statement(schema: str) -> str:
    """SQL that counts the records that are held, by stream."""
    return _HELD.format(rejected=quoted(schema))


def kept_statement(table: Table, *, hard_delete: bool) -> str:
    """SQL that keeps rejected records of ``table``."""
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
        given_is_not_gone=(
            f"AND NOT EXISTS (SELECT FROM {deleted_rows.quoted(table.schema)} AS gone "
            f"WHERE gone.table_name = {literal(table.name)} AND gone.key = given.key "
            "AND to_timestamp(given.updated_at) <= gone._updated_at)"
            if has_tombstones
            else ""
        ),
    )


def page_statement(schema: str) -> str:
    """SQL that reads rejected records of one stream, page by page."""
    return _PAGE.format(rejected=quoted(schema))


def done_statement(schema: str) -> str:
    """SQL that drops records that were tried again and are rejected no more."""
    return _DONE.format(rejected=quoted(schema))


def key_of(schema: str) -> OwnKey:
    """The primary key of the schema's table."""
    return OwnKey(quoted(schema), _KEY)


async def access(connection: Connection, schema: str) -> Access | None:
    """Look the table up; None when there is none."""
    rows = await connection.fetch(_ACCESS, schema, NAME)
    return Access(**rows[0]) if rows else None


async def held(
    connection: Connection, schema: str, tables: Sequence[Table]
) -> dict[str, tuple[int, int]]:
    """How many records are held of each stream that has some: of its account, and of all."""
    rows = await connection.fetch(
        held_statement(schema),
        [table.stream for table in tables],
        [table.account_id for table in tables],
    )
    return {row["stream"]: (row["of_account"], row["of_all_accounts"]) for row in rows}


async def stamped(
    transaction: Transaction, table: Table, account_id: str, ids: Sequence[str]
) -> dict[str, int]:
    """Return how new the rejected records of these ids are, in Unix seconds.

    Args:
        transaction: Where to ask.
        table: Whose records.
        account_id: The account that they are of; empty where it is not known.
        ids: Their ids.
    """
    place = next((n for n, column in enumerate(table.key, 1) if column.path == ("id",)), None)
    found = await transaction.fetch(_ACCESS, table.schema, NAME)
    if place is None or not found or not found[0]["may_use"]:
        return {}
    statement = _STAMPED.format(rejected=quoted(table.schema))
    rows = await transaction.fetch(statement, table.stream, place, ids, account_id)
    return {row["id"]: row["stamp"] for row in rows}


async def forget_stream(connection: Connection, table: Table, account_id: str | None) -> None:
    """Forgets the rejected records of a table that is dropped, or those of one account.

    Args:
        connection: In the transaction that removes the rows.
        table: Whose records.
        account_id: The account that they are of; None for all.
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
    """Drops the table when the schema has no more tables that streams are written to.

    Returns:
        A sentence that says so; empty when it stays, or was never made.
    """
    if await access(connection, schema) is None or await deleted_rows.has_tables(
        connection, schema
    ):
        return ""
    await connection.execute(f"DROP TABLE {quoted(schema)}")
    return f"dropped table {quoted(schema)}"
