"""Differences between the existing tables and the wanted definitions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from engine_server.connectors.postgres.checkpoints import table as checkpoints
from engine_server.connectors.postgres.connection.pool import Connection
from engine_server.connectors.postgres.schema import rejected_table, tombstones
from engine_server.connectors.postgres.schema.existing import (
    ExistingTable,
    existing_tables,
    refuse_protected,
)
from engine_server.connectors.postgres.schema.own_key import OwnKey
from engine_server.connectors.postgres.schema.tables import ColumnMode, Table, by_name, quote
from engine_server.connectors.postgres.setup.definition import (
    column_clause,
    column_mode,
    create_table,
    quoted_names,
)
from engine_server.errors import ConnectorError

# Reads the catalog table: to_regnamespace() may return a cached result from before the lock.
_SCHEMA_EXISTS = "SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = $1)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A statement that brings the existing definitions closer to the wanted ones.

    Attributes:
        sentence: The sentence that reports the change.
        statement: The statement.
        creates: The stream's table that the statement creates; None for any other statement.
        alters: The table whose columns the statement only adds or changes; None for any other.
        adds_key: The primary key that the statement adds to an internal table; None for any other.
        is_optional: Whether a table never needs the change, or a check handles it on its own.
        is_for_kept: Whether it concerns a table that a sync does not need.
    """

    sentence: str
    statement: str
    creates: Table | None = None
    alters: Table | None = None
    adds_key: OwnKey | None = None
    is_optional: bool = False
    is_for_kept: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Differences:
    """Differences between the existing and the wanted definitions.

    Attributes:
        changes: The changes to make, in order.
        warnings: A sentence for each existing column that does not fit its field.
        unusable: The reason for each stream whose table has another key, or was not created by the
            engine.
    """

    changes: Sequence[Change]
    warnings: Sequence[str]
    unusable: Mapping[str, str]


async def is_complete(
    connection: Connection,
    schema: str,
    tables: Sequence[Table],
    columns: ColumnMode | None,
    *,
    hard_delete: bool,
) -> bool:
    """Return whether ``creation.create_missing`` has nothing to create. Raises as it does."""
    refuse_protected(schema)
    mode = column_mode(connection, columns)
    found = await find_differences(connection, schema, tables, mode, hard_delete)
    refuse_unusable(found)
    return all(change.is_optional for change in found.changes)


async def find_differences(
    connection: Connection,
    schema: str,
    tables: Sequence[Table],
    mode: ColumnMode,
    hard_delete: bool,
) -> Differences:
    """Compare the existing tables with the wanted ones."""
    changes: list[Change] = []
    warnings: list[str] = []
    unusable: dict[str, str] = {}
    if not await connection.fetchval(_SCHEMA_EXISTS, schema):
        changes.append(
            Change(
                sentence=f"created schema {quote(schema)}",
                statement=f"CREATE SCHEMA {quote(schema)}",
            )
        )
    existing = await existing_tables(connection, schema, tables)
    for table in by_name(tables):
        if table.name not in existing:
            changes.append(
                Change(
                    sentence=f"created table {table.quoted}",
                    statement=create_table(table, mode),
                    creates=table,
                )
            )
        elif reason := await _unusable(connection, table, existing[table.name]):
            unusable[table.stream] = reason
        elif mode != "none":
            changes += _missing_columns(table, existing[table.name], mode)
            changes += _outdated_columns(table, existing[table.name])
            warnings += _warnings(table, existing[table.name])
    if hard_delete:
        changes += await _missing_tombstones(connection, schema)
    return Differences(changes=changes, warnings=warnings, unusable=unusable)


async def missing_kept(connection: Connection, schema: str) -> list[Change]:
    """Return the changes to the tables of rejected records and of recorded checkpoints."""
    changes = []
    rejected = await rejected_table.access(connection, schema)
    if rejected is None:
        changes.append(
            Change(
                sentence=f"created table {rejected_table.quoted(schema)}",
                statement=rejected_table.create_statement(schema),
                is_for_kept=True,
            )
        )
    elif not rejected.has_key and rejected.may_add_key:
        key = rejected_table.key_of(schema)
        changes.append(
            Change(sentence=key.added, statement=key.statement, adds_key=key, is_for_kept=True)
        )
    access = await checkpoints.access(connection, schema)
    if access.is_usable is None and access.may_create:
        changes.append(
            Change(
                sentence=f"created table {checkpoints.quoted(schema)}",
                statement=checkpoints.create_statement(schema),
                is_for_kept=True,
            )
        )
    return changes


def refuse_unusable(found: Differences) -> None:
    """Raise if the table of any stream is unusable.

    Raises:
        ConnectorError: A table was not created by the engine, or has another key.
    """
    if found.unusable:
        raise ConnectorError("; ".join(found.unusable.values()))


async def _missing_tombstones(connection: Connection, schema: str) -> list[Change]:
    access = await tombstones.access(connection, schema)
    if access is None:
        return [
            Change(
                sentence=f"created table {tombstones.quoted(schema)}",
                statement=tombstones.create_statement(schema),
            )
        ]
    if access.has_key:
        return []
    key = tombstones.key_of(schema)
    return [Change(sentence=key.added, statement=key.statement, adds_key=key, is_optional=True)]


async def _unusable(connection: Connection, table: Table, existing: ExistingTable) -> str:
    """Return why rows cannot be written to a table that exists; empty when they can."""
    if not existing.is_ours:
        return f"table {table.quoted} was made by others: choose another schema, or rename it"
    key = quoted_names(column.name for column in table.key)
    if existing.key == {column.name for column in table.key}:
        return ""
    # With recorded checkpoints, the stream of a new table is read from the start.
    is_recorded = (await checkpoints.access(connection, table.schema)).is_usable
    anew = (
        "rename the table or drop it, and the next sync makes it anew and reads the stream from "
        "the start"
        if is_recorded
        else "rename the table or drop it, then sync with the state reset to have it made anew"
    )
    if not existing.key:
        return (
            f"table {table.quoted} has no primary key, and stream {table.stream} needs ({key}): "
            f"ALTER TABLE {table.quoted} ADD PRIMARY KEY ({key}); or {anew}"
        )
    return (
        f"table {table.quoted} has the primary key ({quoted_names(sorted(existing.key))}), and "
        f"stream {table.stream} needs ({key}): {anew}"
    )


def _missing_columns(table: Table, existing: ExistingTable, mode: ColumnMode) -> list[Change]:
    added = [column for column in table.generated if column.name not in existing.columns]
    if not added:
        return []
    # One statement for all: each statement with stored columns rewrites the table.
    clauses = ", ".join(f"ADD COLUMN {column_clause(column, mode)}" for column in added)
    names = quoted_names(column.name for column in added)
    return [
        Change(
            sentence=f"added to table {table.quoted}: {names}",
            statement=f"ALTER TABLE {table.quoted} {clauses}",
            alters=table,
        )
    ]


def _outdated_columns(table: Table, existing: ExistingTable) -> list[Change]:
    """Return the change that makes virtual columns hold the ids of expanded references.

    Stored columns stay as they are: the change would rewrite the whole table for very few rows.
    """
    outdated = [
        column
        for column in table.generated
        if column.is_reference
        and (found := existing.columns.get(column.name)) is not None
        and found.type == column.type
        and found.unconditional
    ]
    if not outdated:
        return []
    clauses = ", ".join(
        f"ALTER COLUMN {quote(column.name)} SET EXPRESSION AS ({column.expression})"
        for column in outdated
    )
    names = quoted_names(column.name for column in outdated)
    return [
        Change(
            sentence=(
                f"changed in table {table.quoted}, to hold ids of expanded references: {names}"
            ),
            statement=f"ALTER TABLE {table.quoted} {clauses}",
            alters=table,
            is_optional=True,
        )
    ]


def _warnings(table: Table, existing: ExistingTable) -> list[str]:
    warnings = []
    for wanted in table.generated:
        found = existing.columns.get(wanted.name)
        if found is None or (found.generated and found.type == wanted.type):
            continue
        subject = f"column {quote(wanted.name)} of table {table.quoted}"
        drop = f"ALTER TABLE {table.quoted} DROP COLUMN {quote(wanted.name)}"
        if found.generated:
            warnings.append(
                f"{subject} is {found.type}, and its field is {wanted.type} now: it reads NULL for "
                f"what is not {found.type}, and _raw_data has all values. After {drop}, the next "
                f"setup or sync adds it as {wanted.type}, filled from all rows"
            )
        else:
            warnings.append(
                f"{subject} was made by others and is not filled: _raw_data has its field. Rename "
                "it, and the next setup or sync adds one that is filled from all rows"
            )
    return warnings
