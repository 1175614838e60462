"""Primary keys of internal tables, which one restored by pg_restore --table lacks."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

import asyncpg

from engine_server.connectors.postgres.connection.errors import describe, is_contention, is_refusal
from engine_server.connectors.postgres.connection.pool import Connection
from engine_server.connectors.postgres.schema.existing import SET_LOCK_TIMEOUT
from engine_server.connectors.postgres.schema.tables import literal, quote

_HAS_KEY = files(__package__).joinpath("has_key.sql").read_text()
# Seconds that adding a key waits for a table in use: later statements queue behind it.
_LOCK_TIMEOUT = 3.0


@dataclass(frozen=True, slots=True)
class OwnKey:
    """The primary key of an internal table.

    Attributes:
        table: The table, quoted.
        columns: The columns of the key.
    """

    table: str
    columns: Sequence[str]

    @property
    def statement(self) -> str:
        """SQL that adds the key."""
        return f"ALTER TABLE {self.table} ADD PRIMARY KEY ({_listed(self.columns)})"

    @property
    def added(self) -> str:
        """A sentence that reports that the key was added."""
        return f"added the primary key ({_listed(self.columns)}) of table {self.table}"

    @property
    def missing(self) -> str:
        """A clause that reports that the key is missing."""
        return f"table {self.table} has no primary key ({_listed(self.columns)})"

    @property
    def remedy(self) -> str:
        """A clause that tells users how to add the key."""
        return f"run setup as the owner of the table, or {self.statement}"


def has_key(columns: Sequence[str]) -> str:
    """Return an SQL condition: whether table $2 in schema $1 has its primary key."""
    return _HAS_KEY.format(columns=f"ARRAY[{', '.join(map(literal, sorted(columns)))}]")


async def add(connection: Connection, key: OwnKey) -> str:
    """Add a key, or return why that is impossible now; empty when it is done.

    Args:
        connection: In a transaction.
        key: The key to add.
    """
    timeout = await connection.fetchval("SELECT pg_catalog.current_setting('lock_timeout')")
    await connection.fetchval(SET_LOCK_TIMEOUT, f"{_LOCK_TIMEOUT * 1000:.0f}")
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
    """Return a sentence to append to an error about a primary key that was lost during a sync.

    Args:
        error: The error of Postgres.
        tables: The tables that the statement writes to, quoted.

    Returns:
        Empty for any other error.
    """
    if not isinstance(error, asyncpg.InvalidColumnReferenceError):
        return ""
    return f". The primary key of table {' or '.join(tables)} is missing: run setup"


def _listed(columns: Sequence[str]) -> str:
    return ", ".join(map(quote, columns))
