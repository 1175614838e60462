"""Rows that tables have lost, and the deletion of the recorded checkpoints that cover them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import asyncpg

from engine_server.connectors.postgres.checkpoints import table as checkpoints
from engine_server.connectors.postgres.checkpoints.entries import GLOBAL, INPUTS
from engine_server.connectors.postgres.connection.errors import (
    describe,
    is_contention,
    is_refusal,
    only_row,
)
from engine_server.connectors.postgres.connection.pool import Connection
from engine_server.connectors.postgres.schema.existing import SET_LOCK_TIMEOUT
from engine_server.connectors.postgres.schema.tables import Table

# Seconds that further lookups wait for a lock, once one has waited for long.
_FURTHER_LOCK_TIMEOUT = 0.5
# $1: streams. Those with an entry that states that their table has rows.
_MARKED_FILLED = """
    ARRAY(
        SELECT given.stream
        FROM unnest($1::text[]) AS given (stream)
        WHERE EXISTS (
            SELECT FROM {checkpoints} AS entry WHERE entry.stream = given.stream AND entry.has_rows
        )
    )
"""
# $2: quoted names of tables.
_FILES = """
    ARRAY(
        SELECT pg_relation_filenode(to_regclass(given.name))
        FROM unnest($2::text[]) WITH ORDINALITY AS given (name, position)
        ORDER BY given.position
    )
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Emptiness:
    """The streams without rows.

    Attributes:
        empty: The streams whose tables have no rows that our role can see.
        lost: The empty streams with an entry that states that there were rows.
        locked: The reason for each stream whose table is locked against reading.
        files: The number of the file with the rows (``pg_class.relfilenode``) of each stream whose
            table was read; None for a table without one. Until it ends, the transaction prevents
            others from replacing the file, as TRUNCATE does.
    """

    empty: frozenset[str] = frozenset()
    lost: frozenset[str] = frozenset()
    locked: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, int | None] = field(default_factory=dict)

    def __or__(self, other: "Emptiness") -> "Emptiness":
        return Emptiness(
            empty=self.empty | other.empty,
            lost=self.lost | other.lost,
            locked={**self.locked, **other.locked},
            files={**self.files, **other.files},
        )


async def look_for_rows(
    connection: Connection, schema: str, tables: Sequence[Table], *, passes_locked: bool = False
) -> Emptiness:
    """Find the tables without rows.

    A table that cannot be read counts as filled: its stream fails by itself.

    Args:
        connection: In a transaction.
        schema: The schema.
        tables: The tables to read.
        passes_locked: Whether a locked table is skipped in place of waiting for it.
    """
    if not tables:
        return Emptiness()
    try:
        async with connection.transaction():
            return await _look_for_rows(connection, schema, tables)
    except asyncpg.PostgresError as error:
        is_locked = is_contention(error) and passes_locked
        if not (is_locked or is_refusal(error)):
            raise
        if len(tables) == 1 and is_locked:
            reason = f"table {tables[0].quoted}: {describe(error, tables[0].names)}"
            return Emptiness(locked={tables[0].stream: reason})
        if len(tables) == 1:
            return Emptiness()
        if is_locked:
            # Tables without a lock need no waiting.
            await connection.fetchval(SET_LOCK_TIMEOUT, f"{_FURTHER_LOCK_TIMEOUT * 1000:.0f}")
    found = Emptiness()
    middle = len(tables) // 2
    for half in (tables[:middle], tables[middle:]):
        found |= await look_for_rows(connection, schema, half, passes_locked=passes_locked)
    return found


async def forget_emptied(
    connection: Connection, schema: str, tables: Sequence[Table], *, passes_locked: bool = False
) -> Emptiness:
    """Delete the entries, of every lineage and account, of tables that lost their rows.

    Args:
        connection: In a transaction that has locked the entries that it uses, so that the tables
            are read after the entries.
        schema: The schema.
        tables: The tables to read.
        passes_locked: See ``look_for_rows``.
    """
    found = await look_for_rows(connection, schema, tables, passes_locked=passes_locked)
    for table in tables:
        if table.stream in found.lost:
            # The condition is checked again: another request may have written rows meanwhile.
            await connection.execute(
                f"DELETE FROM {checkpoints.quoted(schema)} "  # noqa: S608 - names of our own
                f"WHERE stream = $1 AND has_rows AND NOT EXISTS (SELECT FROM {table.quoted})",
                table.stream,
            )
    return found


async def forget_created(connection: Connection, schema: str, streams: Collection[str]) -> None:
    """Delete the entries of streams whose tables the same transaction creates."""
    if streams and (await checkpoints.access(connection, schema)).may_use:
        await connection.execute(
            f"DELETE FROM {checkpoints.quoted(schema)} WHERE stream = ANY($1::text[])",  # noqa: S608 - the same
            list(streams),
        )


async def forget_stream(connection: Connection, table: Table, account_id: str | None) -> None:
    """Delete the entries of a table that is dropped, or those of one account.

    The last stream of a lineage takes all other entries of the lineage with it.

    Args:
        connection: In the transaction that removes the rows; the entries are usable.
        table: The table of the stream.
        account_id: The account of the entries; None for all accounts.
    """
    name = checkpoints.quoted(table.schema)
    await connection.execute(
        f"DELETE FROM {name} WHERE stream = $1 AND ($2::text IS NULL OR account_id = $2)",  # noqa: S608 - the same
        table.stream,
        account_id,
    )
    await connection.execute(
        f"DELETE FROM {name} AS entry WHERE stream = ANY($1::text[]) AND NOT EXISTS ("  # noqa: S608 - the same
        f"SELECT FROM {name} AS other WHERE other.account_id = entry.account_id "
        "AND other.lineage = entry.lineage AND other.stream <> ALL($1::text[]))",
        [GLOBAL, INPUTS],
    )


async def _look_for_rows(connection: Connection, schema: str, tables: Sequence[Table]) -> Emptiness:
    looks = ", ".join(f"EXISTS (SELECT FROM {table.quoted})::text" for table in tables)
    names = [table.stream for table in tables]
    row = only_row(
        await connection.fetch(
            f"SELECT ARRAY[{looks}] AS filled, "
            f"{_MARKED_FILLED.format(checkpoints=checkpoints.quoted(schema))} AS marked_filled, "
            f"{_FILES} AS files",
            names,
            [table.quoted for table in tables],
        )
    )
    empty = frozenset(
        name for name, filled in zip(names, row["filled"], strict=True) if filled == "false"
    )
    files = dict(zip(names, row["files"], strict=True))
    return Emptiness(empty=empty, lost=empty.intersection(row["marked_filled"]), files=files)
