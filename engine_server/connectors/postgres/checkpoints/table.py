"""The table of recorded checkpoints: one a schema, for all streams written to it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files

import asyncpg

from engine_server.connectors.postgres import deleted_rows, own_key
from engine_server.connectors.postgres.checkpoints.lines import GLOBAL, INPUTS
from engine_server.connectors.postgres.existing import SET_LOCK_TIMEOUT, lock
from engine_server.connectors.postgres.faults import describe, is_contention, is_refusal
from engine_server.connectors.postgres.own_key import OwnKey
from engine_server.connectors.postgres.pool import Connection
from engine_server.connectors.postgres.table_access import full_access
from engine_server.connectors.postgres.tables import Table, quote

NAME = "_pipesync_checkpoints"

_SQL = files(__package__)
_CREATE = _SQL.joinpath("create_checkpoints.sql").read_text()
_KEY = ("account_id", "lineage", "stream")
_ACCESS = _SQL.joinpath("checkpoints_access.sql").read_text().format(has_key=own_key.has_key(_KEY))
# Seconds that further looks wait for a lock, once one has waited for long.
_FURTHER_PATIENCE = 0.5
# $1: streams. Those with a line that says that their table has rows.
_NOTED = """
    ARRAY(
        SELECT given.stream
        FROM unnest($1::text[]) AS given (stream)
        WHERE EXISTS (
            SELECT FROM {checkpoints} AS line WHERE line.stream = given.stream AND line.has_rows
        )
    )
"""
# $2: quoted names of tables.
_FILES = """
    ARRAY(
        SELECT pg_relation_filenode(to_regclass(given.name))
        FROM unnest($2::text[]) WITH ORDINALITY AS given (name, place)
        ORDER BY given.place
    )
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """The state of the table.

    Attributes:
        role: Our role.
        may_use: Whether it may read and write the table; None when there is none.
        has_key: Whether the table has its primary key.
        has_row_security: Whether the table's policies apply to it.
        may_create: Whether it may make tables in the schema, or the schema.
        refusal: Why Postgres refused to make the table or its key; empty where it was not asked to.
    """

    role: str
    may_use: bool | None
    has_key: bool
    has_row_security: bool
    may_create: bool
    refusal: str = ""

    @property
    def is_usable(self) -> bool | None:
        """Return whether our role may write lines and the table has its key; None: no table."""
        return self.may_use and self.has_key

    def obstacle(self, schema: str) -> str:
        """Return why checkpoints cannot be recorded, and the remedy; empty when they can."""
        name, role = quoted(schema), quote(self.role)
        effect = "so a dropped, emptied or restored table is not noticed"
        if self.is_usable is None and self.refusal:
            reason = f"Postgres refused to create it: {self.refusal}"
            return f"there is no table {name}, {effect}: {reason}"
        if self.is_usable is None and not self.may_create:
            return (
                f"there is no table {name}, {effect}: run setup with a role that may create it, "
                f"then GRANT SELECT, INSERT, UPDATE, DELETE ON {name} TO {role}"
            )
        if self.may_use is False:
            return (
                f"role {role} may not use table {name}, {effect}: "
                f"{full_access(role, name, has_row_security=self.has_row_security)}"
            )
        if self.is_usable is False:
            return (
                f"{key_of(schema).missing}, {effect}: add it, or drop the table, "
                "and the streams are read from the start"
            )
        return ""


def quoted(schema: str) -> str:
    """The qualified name of the schema's table, for SQL."""
    return f"{quote(schema)}.{quote(NAME)}"


def create_statement(schema: str) -> str:
    """SQL that makes the table."""
    return _CREATE.format(checkpoints=quoted(schema))


def key_of(schema: str) -> OwnKey:
    """The primary key of the schema's table."""
    return OwnKey(quoted(schema), _KEY)


async def access(connection: Connection, schema: str) -> Access:
    """Look the table up."""
    [row] = await connection.fetch(_ACCESS, schema, NAME)
    return Access(**row)


async def make_missing(connection: Connection, schema: str) -> tuple[Access, str]:
    """Make the table, or its primary key, where it is missing and our role may.

    Args:
        connection: In a transaction; the schema exists.
        schema: The schema.

    Returns:
        The table's state now, and a sentence that says what was made; empty for nothing.
    """
    found = await access(connection, schema)
    if found.is_usable is not None and found.has_key:
        return found, ""
    if not found.may_create:
        return found, ""
    await lock(connection, schema)
    found = await access(connection, schema)
    if found.is_usable is None:
        statement, made = create_statement(schema), f"created table {quoted(schema)}"
    elif not found.has_key:
        statement, made = key_of(schema).statement, key_of(schema).added
    else:
        return found, ""
    try:
        async with connection.transaction():
            await connection.execute(statement)
    except asyncpg.PostgresError as error:
        if not is_refusal(error):
            raise
        return replace(found, refusal=describe(error)), ""
    return await access(connection, schema), made


@dataclass(frozen=True, slots=True, kw_only=True)
class Emptiness:
    """Which streams have no rows.

    Attributes:
        empty: The streams whose tables hold no rows that our role can see.
        lost: Those of them of which a line says that there were some.
        locked: The reason for each stream whose table others keep from being read.
        files: For each stream whose table was looked into, the number of the file that holds its
            rows (``pg_class.relfilenode``); None for a table without one. The transaction keeps
            others from giving the table another file, as TRUNCATE does, until it ends.
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
    """Look which tables hold no rows.

    A table that cannot be read counts as filled: its stream fails by itself.

    Args:
        connection: In a transaction.
        schema: The schema.
        tables: The tables to look at.
        passes_locked: Whether one that others keep from being read is left out; else it is waited
            for.
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
            # Those that are not locked answer at once.
            await connection.fetchval(SET_LOCK_TIMEOUT, f"{_FURTHER_PATIENCE * 1000:.0f}")
    found = Emptiness()
    middle = len(tables) // 2
    for half in (tables[:middle], tables[middle:]):
        found |= await look_for_rows(connection, schema, half, passes_locked=passes_locked)
    return found


async def forget_emptied(
    connection: Connection, schema: str, tables: Sequence[Table], *, passes_locked: bool = False
) -> Emptiness:
    """Drop the lines, of every lineage and account, of tables that lost the rows that they had.

    Args:
        connection: In a transaction, which has locked the lines that it is going to use: what is
            found then is later than what they say.
        schema: The schema.
        tables: The tables to look at.
        passes_locked: As ``look_for_rows`` takes it.
    """
    found = await look_for_rows(connection, schema, tables, passes_locked=passes_locked)
    for table in tables:
        if table.stream in found.lost:
            # Looked at once more: another request may have written the first rows meanwhile.
            await connection.execute(
                f"DELETE FROM {quoted(schema)} "  # noqa: S608 - names of our own
                f"WHERE stream = $1 AND has_rows AND NOT EXISTS (SELECT FROM {table.quoted})",
                table.stream,
            )
    return found


async def forget_created(connection: Connection, schema: str, streams: Collection[str]) -> None:
    """Drop the lines of streams whose tables the same transaction makes."""
    if streams and (await access(connection, schema)).may_use:
        await connection.execute(
            f"DELETE FROM {quoted(schema)} WHERE stream = ANY($1::text[])",  # noqa: S608 - the same
            list(streams),
        )


async def forget_stream(connection: Connection, table: Table, account_id: str | None) -> None:
    """Drop the lines of a table that is dropped, or those of one account.

    With the last stream of a lineage goes all that it recorded.

    Args:
        connection: In the transaction that removes the rows; the lines are usable.
        table: Whose lines.
        account_id: The account that they are of; None for all.
    """
    name = quoted(table.schema)
    await connection.execute(
        f"DELETE FROM {name} WHERE stream = $1 AND ($2::text IS NULL OR account_id = $2)",  # noqa: S608 - the same
        table.stream,
        account_id,
    )
    await connection.execute(
        f"DELETE FROM {name} AS line WHERE stream = ANY($1::text[]) AND NOT EXISTS ("  # noqa: S608 - the same
        f"SELECT FROM {name} AS other WHERE other.account_id = line.account_id "
        "AND other.lineage = line.lineage AND other.stream <> ALL($1::text[]))",
        [GLOBAL, INPUTS],
    )


async def drop_if_last(connection: Connection, schema: str) -> str:
    """Drop the table when the schema has no more tables that streams are written to.

    Returns:
        A sentence that says so; empty when it stays, or was never made.
    """
    found = await access(connection, schema)
    if found.is_usable is None or await deleted_rows.has_tables(connection, schema):
        return ""
    await connection.execute(f"DROP TABLE {quoted(schema)}")
    return f"dropped table {quoted(schema)}"


async def _look_for_rows(connection: Connection, schema: str, tables: Sequence[Table]) -> Emptiness:
    looks = ", ".join(f"EXISTS (SELECT FROM {table.quoted})::text" for table in tables)
    names = [table.stream for table in tables]
    [row] = await connection.fetch(
        f"SELECT ARRAY[{looks}] AS filled, {_NOTED.format(checkpoints=quoted(schema))} AS noted, "
        f"{_FILES} AS files",
        names,
        [table.quoted for table in tables],
    )
    empty = frozenset(
        name for name, filled in zip(names, row["filled"], strict=True) if filled == "false"
    )
    files = dict(zip(names, row["files"], strict=True))
    return Emptiness(empty=empty, lost=empty.intersection(row["noted"]), files=files)
