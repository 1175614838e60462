"""SQL that moves entries, sent together with COMMIT to save a round trip."""

from collections.abc import Collection
from dataclasses import dataclass

import asyncpg

from engine_server.connectors.postgres.checkpoints import table
from engine_server.connectors.postgres.schema.tables import Table
from engine_server.errors import ConnectorError


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """The next checkpoint of an entry.

    Attributes:
        stream: The stream of the entry.
        epoch: The epoch that the entry must have.
        committed: The last number that is known to be committed.
        number: The checkpoint's number. The entry may already have it, if the transaction was
            committed and only the answer was lost.
        checkpoint: Its JSON text; None for none.
        stream_schema: Replaces the entry's unless it is empty.
    """

    stream: str
    epoch: str
    committed: int
    number: int
    checkpoint: str | None
    stream_schema: str


def moves_script(schema: str, account_id: str, lineage: str, moves: Collection[Move]) -> str:
    """Return SQL that moves entries, or raises when one was deleted or taken over."""
    rows = ", ".join(
        f"({constant(move.stream)}, {constant(move.epoch)}, {move.committed}::bigint, "
        f"{move.number}::bigint, {constant(move.checkpoint)}, {constant(move.stream_schema)})"
        for move in moves
    )
    return (
        f"WITH moved AS (UPDATE {table.quoted(schema)} AS entry SET "  # noqa: S608 - constants of our own
        "checkpoint = given.checkpoint, number = given.number, written_at = now(), "
        "stream_schema = coalesce(nullif(given.stream_schema, ''), entry.stream_schema) "
        f"FROM (VALUES {rows}) "
        "AS given (stream, epoch, committed, number, checkpoint, stream_schema) "
        f"WHERE entry.account_id = {constant(account_id)} AND entry.lineage = {constant(lineage)} "
        "AND entry.stream = given.stream AND entry.epoch = given.epoch "
        "AND entry.number BETWEEN given.committed AND given.number RETURNING 1) "
        # The text in the failing cast identifies the error.
        f"SELECT CASE count(*) WHEN {len(moves)} THEN 0 "
        f"ELSE ('{table.NAME}: ' || count(*))::integer END FROM moved; "
    )


def lock_script(schema: str, account_id: str, lineage: str, streams: Collection[str]) -> str:
    """Return SQL that locks entries in the order of a comparison; empty for fewer than two."""
    if len(streams) < 2:
        return ""
    names = ", ".join(map(constant, sorted(streams)))
    return (
        f"SELECT FROM {table.quoted(schema)} "
        f"WHERE account_id = {constant(account_id)} AND lineage = {constant(lineage)} "
        f"AND stream IN ({names}) ORDER BY stream FOR UPDATE; "
    )


def rows_script(schema: str, written: Table) -> str:
    """Return SQL that records in the entries of all lineages that a table has rows, if it has."""
    return (
        f"UPDATE {table.quoted(schema)} SET has_rows = true "  # noqa: S608 - the same
        f"WHERE stream = {constant(written.stream)} AND NOT has_rows "
        f"AND EXISTS (SELECT FROM {written.quoted}); "
    )


def files_script(files: Collection[tuple[Table, int | None]]) -> str:
    """Return SQL that raises when a table has another file than when the entries were compared.

    TRUNCATE replaces the file, and later rows would hide that the table was emptied. The locks of
    the rows that the transaction wrote prevent a TRUNCATE until it ends.

    https://www.postgresql.org/docs/current/sql-truncate.html
    """
    if not files:
        return ""
    rows = ", ".join(
        f"({constant(one.quoted)}, {'NULL' if file is None else file}::oid)" for one, file in files
    )
    return (
        f"SELECT CASE count(*) WHEN {len(files)} THEN 0 "  # noqa: S608 - constants of our own
        f"ELSE ('{table.NAME}: ' || count(*))::integer END "
        f"FROM (VALUES {rows}) AS given (name, file) "
        "WHERE pg_relation_filenode(to_regclass(given.name)) IS NOT DISTINCT FROM given.file; "
    )


def is_about_checkpoints(error: asyncpg.PostgresError) -> bool:
    """Return whether a commit failed because its entries were changed by others."""
    return bool(error.args) and table.NAME in str(error.args[0])


def constant(text: str | None) -> str:
    """Return a string constant for SQL that is independent of the session's settings.

    https://www.postgresql.org/docs/current/sql-syntax-lexical.html#SQL-SYNTAX-STRINGS-ESCAPE
    """
    if text is None:
        return "NULL::text"
    if "\0" in text:
        raise ConnectorError("a checkpoint holds a NUL character, which Postgres cannot store")
    escaped = text.replace("\\", "\\\\").replace("'", "''")
    return f"E'{escaped}'"
