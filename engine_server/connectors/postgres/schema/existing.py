"""Lookup of existing tables and their columns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

from engine_server.connectors.postgres.connection.pool import Connection
from engine_server.connectors.postgres.schema.tables import (
    ACCOUNT_ID,
    LAST_SYNCED_AT,
    RAW_DATA,
    UPDATED_AT,
    Table,
)
from engine_server.errors import ConnectorError

_COLUMNS = files(__package__).joinpath("columns.sql").read_text()
# Serializes transactions that create or drop tables of one schema, until their end.
_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('pipesync ' || $1, 0))"

# $1: milliseconds, for the rest of the transaction.
SET_LOCK_TIMEOUT = "SELECT pg_catalog.set_config('lock_timeout', $1, true)"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExistingColumn:
    """An existing column.

    Attributes:
        type: Its SQL type.
        generated: Whether it is a generated column.
        unconditional: Whether it is a virtual column that takes a field of any type as it is.
    """

    type: str
    generated: bool
    unconditional: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ExistingTable:
    """An existing table, or another relation with the name of one.

    Attributes:
        columns: Its columns by name.
        key: The columns of its primary key; empty when it has none.
    """

    columns: Mapping[str, ExistingColumn]
    key: frozenset[str]

    @property
    def is_ours(self) -> bool:
        """Whether it has the columns that every table of a stream has."""
        return {ACCOUNT_ID, RAW_DATA, UPDATED_AT, LAST_SYNCED_AT} <= self.columns.keys()


async def existing_tables(
    connection: Connection, schema: str, tables: Sequence[Table]
) -> Mapping[str, ExistingTable]:
    """Return those of ``tables`` that exist, by name."""
    rows = await connection.fetch(_COLUMNS, schema, [table.name for table in tables])
    return {
        row["name"]: ExistingTable(
            columns={
                name: ExistingColumn(
                    type=sql_type,
                    generated=name in row["generated"],
                    unconditional=name in row["unconditional"],
                )
                for name, sql_type in zip(row["columns"], row["types"], strict=True)
            },
            key=frozenset(row["key"]),
        )
        for row in rows
    }


async def lock(connection: Connection, schema: str) -> None:
    """Keep others from creating or dropping tables in ``schema`` until the transaction ends."""
    await connection.execute(_LOCK, schema)


def refuse_protected(schema: str) -> None:
    """Refuse schemas that Postgres reserves.

    https://www.postgresql.org/docs/current/ddl-schemas.html#DDL-SCHEMAS-CATALOG

    Raises:
        ConnectorError: The schema is one of them.
    """
    if schema.startswith("pg_") or schema == "information_schema":
        raise ConnectorError(f"schema {schema} belongs to Postgres itself: choose another")
