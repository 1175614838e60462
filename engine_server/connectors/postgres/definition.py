"""How the schema, its tables and their columns differ from those that streams need."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files

from engine_server.connectors.postgres import deleted_rows, rejected_table
from engine_server.connectors.postgres.checkpoints import table as checkpoints
from engine_server.connectors.postgres.existing import (
    ExistingTable,
    existing_tables,
    refuse_protected,
)
from engine_server.connectors.postgres.inventory_questions import owner_index
from engine_server.connectors.postgres.own_key import OwnKey
from engine_server.connectors.postgres.pool import Connection
from engine_server.connectors.postgres.tables import (
    ACCOUNT_ID,
    ColumnMode,
    GeneratedColumn,
    Table,
    by_name,
    quote,
)
from engine_server.errors import ConnectorError

_CREATE_TABLE = files(__package__).joinpath("create_table.sql").read_text()
_VIRTUAL_COLUMNS_SINCE = 18
# Asked of the table itself: to_regnamespace() may answer from a cache that is behind the lock.
_SCHEMA_EXISTS = "SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = $1)"


@dataclass(frozen=True, slots=True)
class Differences:
    """How what exists differs from what is wanted.

    Attributes:
        missing: What is to be made, in order: a sentence that says so → the statement that does.
        warnings: A sentence for each column that exists and is not what its field needs.
        columns: The table that each sentence is about which only adds or changes columns.
        optional: The sentences about what a table can do without for good, or a check looks at by
            itself.
        created: The table that each sentence is about which makes a stream's table.
        kept: The sentences about tables that a sync can do without.
        keys: The key that each sentence is about which adds one to a table of our own.
        unusable: The reason for each stream whose table was made by others, or has another key.
        refused: The reason for each stream that cannot be written: its table is unusable, or
            Postgres refuses to make it.
    """

    missing: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    columns: dict[str, Table] = field(default_factory=dict)
    optional: set[str] = field(default_factory=set)
    created: dict[str, Table] = field(default_factory=dict)
    kept: set[str] = field(default_factory=set)
    keys: dict[str, OwnKey] = field(default_factory=dict)
    unusable: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


async def is_complete(
    connection: Connection,
    schema: str,
    tables: Sequence[Table],
    columns: ColumnMode | None,
    *,
    hard_delete: bool,
) -> bool:
    """Whether ``making.make_missing`` would find nothing to make. Raises as it does."""
    refuse_protected(schema)
    mode = column_mode(connection, columns)
    found = await find_differences(connection, schema, tables, mode, hard_delete)
    refuse_unusable(found)
    return found.optional.issuperset(found.missing)


async def find_differences(
    connection: Connection,
    schema: str,
    tables: Sequence[Table],
    mode: ColumnMode,
    hard_delete: bool,
) -> Differences:
    """Compare what exists with what is wanted."""
    found = Differences()
    if not await connection.fetchval(_SCHEMA_EXISTS, schema):
        found.missing[f"created schema {quote(schema)}"] = f"CREATE SCHEMA {quote(schema)}"
    existing = await existing_tables(connection, schema, tables)
    for table in by_name(tables):
        if table.name not in existing:
            sentence = f"created table {table.quoted}"
            found.missing[sentence] = _create_table(table, mode)
            found.created[sentence] = table
            continue
        if reason := await _unusable(connection, table, existing[table.name]):
            found.unusable[table.stream] = reason
            continue
        if mode != "none":
            outdated = _outdated_columns(table, existing[table.name])
            added = {**_missing_columns(table, existing[table.name], mode), **outdated}
            found.missing.update(added)
            found.optional.update(outdated)
            found.columns.update(dict.fromkeys(added, table))
            found.warnings.extend(_warnings(table, existing[table.name]))
    if hard_delete:
        access = await deleted_rows.access(connection, schema)
        if access is None:
            name = deleted_rows.quoted(schema)
            found.missing[f"created table {name}"] = deleted_rows.create_statement(schema)
        elif not access.has_key:
            key = deleted_rows.key_of(schema)
            found.missing[key.added] = key.statement
            found.keys[key.added] = key
            found.optional.add(key.added)
    return found


async def add_missing_kept(connection: Connection, schema: str, found: Differences) -> None:
    """Add the tables of rejected records and of recorded checkpoints where they are missing.

    That of rejected records gets its primary key, too.
    """
    missing = {}
    rejected = await rejected_table.access(connection, schema)
    if rejected is None:
        name = rejected_table.quoted(schema)
        missing[f"created table {name}"] = rejected_table.create_statement(schema)
    elif not rejected.has_key and rejected.may_add_key:
        key = rejected_table.key_of(schema)
        missing[key.added] = key.statement
        found.keys[key.added] = key
    access = await checkpoints.access(connection, schema)
    if access.is_usable is None and access.may_create:
        name = checkpoints.quoted(schema)
        missing[f"created table {name}"] = checkpoints.create_statement(schema)
    found.missing.update(missing)
    found.kept.update(missing)


def refuse_unusable(found: Differences) -> None:
    """Refuse all streams for the tables of some.

    Raises:
        ConnectorError: A table was made by others, or has another key.
    """
    if found.unusable:
        raise ConnectorError("; ".join(found.unusable.values()))


async def _unusable(connection: Connection, table: Table, existing: ExistingTable) -> str:
    """Return why rows cannot be written to a table that exists; empty when they can."""
    if not existing.is_ours:
        return f"table {table.quoted} was made by others: choose another schema, or rename it"
    key = _names(column.name for column in table.key)
    if existing.key == {column.name for column in table.key}:
        return ""
    # A table that is made anew is read from the start where checkpoints are recorded.
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
        f"table {table.quoted} has the primary key ({_names(sorted(existing.key))}), and "
        f"stream {table.stream} needs ({key}): {anew}"
    )


def _missing_columns(table: Table, existing: ExistingTable, mode: ColumnMode) -> Mapping[str, str]:
    added = [column for column in table.generated if column.name not in existing.columns]
    if not added:
        return {}
    # All in one statement: where columns are stored, each statement rewrites the table.
    clauses = ", ".join(f"ADD COLUMN {_column(column, mode)}" for column in added)
    names = _names(column.name for column in added)
    return {f"added to table {table.quoted}: {names}": f"ALTER TABLE {table.quoted} {clauses}"}


def _outdated_columns(table: Table, existing: ExistingTable) -> Mapping[str, str]:
    """Has virtual columns hold the ids of expanded references where they were made to hold JSON.

    Stored ones would have the whole table rewritten, for what hardly any row has.
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
        return {}
    clauses = ", ".join(
        f"ALTER COLUMN {quote(column.name)} SET EXPRESSION AS ({column.expression})"
        for column in outdated
    )
    names = _names(column.name for column in outdated)
    return {
        f"changed in table {table.quoted}, to hold ids of expanded references: {names}": (
            f"ALTER TABLE {table.quoted} {clauses}"
        )
    }


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


def _create_table(table: Table, mode: ColumnMode) -> str:
    key = [quote(column.name) for column in table.key]
    account_is_key = any(column.name == ACCOUNT_ID for column in table.key)
    generated = () if mode == "none" else table.generated
    statement = _CREATE_TABLE.format(
        table=table.quoted,
        key_columns=", ".join(f"{name} text" for name in key),
        account_id="" if account_is_key else f"{quote(ACCOUNT_ID)} text,",
        generated_columns="".join(f"{_column(column, mode)}, " for column in generated),
        key=", ".join(key),
    )
    if not table.owner_field:
        return statement
    # Made now, it costs nothing; events ask by it which items their object had.
    return f"{statement};\n{owner_index(table, table.owner_field).statement}"


def _column(column: GeneratedColumn, mode: ColumnMode) -> str:
    return f"{quote(column.name)} {column.type} GENERATED ALWAYS AS ({column.expression}) {mode}"


def _names(names: Iterable[str]) -> str:
    return ", ".join(map(quote, names))


def column_mode(connection: Connection, wanted: ColumnMode | None) -> ColumnMode:
    """Return how typed columns are made.

    Raises:
        ConnectorError: The server is too old for the columns that are wanted.
    """
    version = connection.get_server_version().major
    if wanted == "virtual" and version < _VIRTUAL_COLUMNS_SINCE:
        raise ConnectorError(
            f"columns: virtual needs Postgres {_VIRTUAL_COLUMNS_SINCE} or newer, "
            f"and this is {version}: choose stored"
        )
    if wanted is None:
        return "virtual" if version >= _VIRTUAL_COLUMNS_SINCE else "stored"
    return wanted
