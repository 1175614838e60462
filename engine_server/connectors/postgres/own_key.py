"""The primary keys of our own tables: one that was restored alone (pg_restore --table) has none."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

import asyncpg

from engine_server.connectors.postgres.existing import SET_LOCK_TIMEOUT
from engine_server.connectors.postgres.faults import describe, is_contention, is_refusal
from engine_server.connectors.postgres.pool import Connection
from engine_server.connectors.postgres.tables import literal, quote

_HAS_KEY = files(__package__).joinpath("has_key.sql").read_text()
# Seconds that a key waits for a table that others use: all who come after it wait, too.
_PATIENCE = 3.0


@dataclass(frozen=True, slots=True)
class OwnKey:
    """The primary key that a table of ours is made with.

    Attributes:
        table: The table, quoted.
        columns: Its columns.
    """

    table: str
    columns: Sequence[str]

    @property
    def statement(self) -> str:
        """SQL that adds it."""
        return f"ALTER TABLE {self.table} ADD PRIMARY KEY ({_listed(self.columns)})"

    @property
    def added(self) -> str:
        """A sentence that says that it was added."""
        return f"added the primary key ({_listed(self.columns)}) of table {self.table}"

    @property
    def missing(self) -> str:
        """A clause that says that it is missing."""
        return f"table {self.table} has no primary key ({_listed(self.columns)})"

    @property
    def remedy(self) -> str:
        """A clause that says how to add it."""
        return f"run setup as the owner of the table, or {self.statement}"


def has_key(columns: Sequence[str]) -> str:
    """SQL, a condition: whether the table of the name $2 in the schema $1 has its primary key."""
    return _HAS_KEY.format(columns=f"ARRAY[{', '.join(map(literal, sorted(columns)))}]")


async def add(connection: Connection, key: OwnKey) -> str:
    """Add a key, or return why that cannot be done now; empty when it is done.

    Args:
        connection: In a transaction.
        key: Which to add.
    """
    timeout = await connection.fetchval("SELECT pg_catalog.current_setting('lock_timeout')")
    await connection.fetchval(SET_LOCK_TIMEOUT, f"{_PATIENCE * 1000:.0f}")
    reason = ""
    try:
        async with connection.transaction():
            await connection.execute(key.statement)
    except asyncpg.PostgresError as error:
        if not (is_refusal(error) or is_contention(error)):
            raise
        reason = describe(error)
    await connection.fetchval(SET_LOCK_TIMEOUT, timeout)
    return reason


def missing_at(error: asyncpg.PostgresError, tables: Sequence[str]) -> str:
    """Return a sentence, to add to an error, on a primary key that was lost during a sync.

    Args:
        error: What Postgres answered.
        tables: The tables that the statement writes to, quoted.

    Returns:
        Empty for any other error.
    """
    if not isinstance(error, asyncpg.InvalidColumnReferenceError):
        return ""
    return f". The primary key of table {' or '.join(tables)} is missing: run setup"


def _listed(columns: Sequence[str]) -> str:
    return ", ".join(map(quote, columns))
