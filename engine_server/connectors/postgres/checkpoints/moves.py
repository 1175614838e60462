"""SQL that moves lines, sent together with COMMIT: it costs no round trip of its own."""

from collections.abc import Collection
from dataclasses import dataclass

import asyncpg

from engine_server.connectors.postgres.checkpoints import table
from engine_server.connectors.postgres.tables import Table
from engine_server.errors import ConnectorError


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """A line's next checkpoint.

    Attributes:
        stream: Whose line.
        epoch: The epoch that the line must be of.
        committed: The last number that is known to be committed.
        number: The checkpoint's number. The line may have it already, where the transaction was
            committed and only the answer was lost.
        checkpoint: Its JSON text; None for none.
        stream_schema: Takes the place of the line's unless it is empty.
    """

    stream: str
    epoch: str
    committed: int
    number: int
    checkpoint: str | None
    stream_schema: str


def moves_script(schema: str, account_id: str, lineage: str, moves: Collection[Move]) -> str:
    """SQL that moves lines, or raises when one of them is gone or was taken over."""
    rows = ", ".join(
        f"({constant(move.stream)}, {constant(move.epoch)}, {move.committed}::bigint, "
        f"{move.number}::bigint, {constant(move.checkpoint)}, {constant(move.stream_schema)})"
        for move in moves
    )
    return (
        f"WITH moved AS (UPDATE {table.quoted(schema)} AS line SET "  # noqa: S608 - constants of our own
        "checkpoint = given.checkpoint, number = given.number, written_at = now(), "
        "stream_schema = coalesce(nullif(given.stream_schema, ''), line.stream_schema) "
        f"FROM (VALUES {rows}) "
        "AS given (stream, epoch, committed, number, checkpoint, stream_schema) "
        f"WHERE line.account_id = {constant(account_id)} AND line.lineage = {constant(lineage)} "
        "AND line.stream = given.stream AND line.epoch = given.epoch "
        "AND line.number BETWEEN given.committed AND given.number RETURNING 1) "
        # The text that cannot be a number says whose error it is.
        f"SELECT CASE count(*) WHEN {len(moves)} THEN 0 "
        f"ELSE ('{table.NAME}: ' || count(*))::integer END FROM moved; "
    )


def lock_script(schema: str, account_id: str, lineage: str, streams: Collection[str]) -> str:
    """SQL that locks lines in the order in which a comparison does; empty for less than two."""
    if len(streams) < 2:
        return ""
    names = ", ".join(map(constant, sorted(streams)))
    return (
        f"SELECT FROM {table.quoted(schema)} "
        f"WHERE account_id = {constant(account_id)} AND lineage = {constant(lineage)} "
        f"AND stream IN ({names}) ORDER BY stream FOR UPDATE; "
    )


def rows_script(schema: str, written: Table) -> str:
    """SQL that has the lines of all lineages say that a table has rows, if it has."""
    return (
        f"UPDATE {table.quoted(schema)} SET has_rows = true "  # noqa: S608 - the same
        f"WHERE stream = {constant(written.stream)} AND NOT has_rows "
        f"AND EXISTS (SELECT FROM {written.quoted}); "
    )


def files_script(files: Collection[tuple[Table, int | None]]) -> str:
    """SQL that raises when a table has another file than it had as lines were compared.

    TRUNCATE gives it one, and the rows that come after would hide that the table was emptied. What
    the transaction wrote keeps others from doing so until it ends.

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


def is_about_lines(error: asyncpg.PostgresError) -> bool:
    """Whether a transaction could not be ended since its lines are not as they were left."""
    return bool(error.args) and table.NAME in str(error.args[0])


def constant(text: str | None) -> str:
    """A string constant that means the same whatever the session's settings.

    https://www.postgresql.org/docs/current/sql-syntax-lexical.html#SQL-SYNTAX-STRINGS-ESCAPE
    """
    if text is None:
        return "NULL::text"
    if "\0" in text:
        raise ConnectorError("a checkpoint holds a NUL character, which Postgres cannot store")
    escaped = text.replace("\\", "\\\\").replace("'", "''")
    return f"E'{escaped}'"
