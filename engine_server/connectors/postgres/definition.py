"""Makes what is missing of the schema, its tables and their columns."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files

import asyncpg

from engine_server.connectors.postgres import deleted_rows, rejected_table
from engine_server.connectors.postgres.checkpoints import table as checkpoints
from engine_server.connectors.postgres.existing import (
    ExistingTable,
    existing_tables,
    lock,
    refuse_protected,
)
from engine_server.connectors.postgres.inventory_questions import owner_index
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
# A larger one may take longer to be written anew than a sync has in all.
_LARGE_TABLE = 256 << 20
_TABLE_SIZE = "SELECT pg_catalog.pg_table_size($1::text::regclass)"
# Asked of the table itself: to_regnamespace() may answer from a cache that is behind the lock.
_SCHEMA_EXISTS = "SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = $1)"


@dataclass(frozen=True, slots=True)
class Differences:
    """How what exists differs from what is wanted.

    Attributes:
        missing: What is to be made, in order: a sentence that says so → the statement that does.
        warnings: A sentence for each column that exists and is not what its field needs.
        columns: The table that each sentence is about which only adds or changes columns.
        optional: The sentences about what a table can do without for good.
        created: The streams whose tables are among what is missing.
    """

    missing: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    columns: dict[str, Table] = field(default_factory=dict)
    optional: set[str] = field(default_factory=set)
    created: set[str] = field(default_factory=set)


async def make_missing(
    connection: Connection,
    schema: str,
    tables: Sequence[Table],
    columns: ColumnMode | None,
    *,
    hard_delete: bool,
    keeps_rejected: bool,
    columns_can_wait: bool = False,
) -> Differences:
    """Makes the schema, tables and columns that are not there yet, all of them or none.

    Safe to repeat, and to run twice at once. When nothing is missing it only reads. Nothing that
    is there is changed or dropped: not a column whose field is gone, nor one whose field has
    another type now. Where rows are deleted for good, there is a table that says which.

    A row is written whole without a column that is missing. So for a sync it can wait: one that its
    role may not add, or that would have a large table written anew within the sync's time limit,
    is left to setup, with a warning.

    Args:
        connection: Where to make them.
        schema: The schema.
        tables: The tables that streams are written to.
        columns: How typed columns are made.
        hard_delete: Whether deleted rows are removed.
        keeps_rejected: Whether the tables of rejected records and of recorded checkpoints are made
            although nothing else is missing: a sync can do without, and its role may not be allowed
            to make them.
        columns_can_wait: Whether columns may be left to setup.

    Returns:
        What was made, and what stays other than it should be.

    Raises:
        ConnectorError: The schema is one of Postgres's own, a table of that name was made by others
            or has another key, or the server is too old for the columns that were asked for.
    """
    refuse_protected(schema)
    mode = _column_mode(connection, columns)
    wanted = tables, mode, hard_delete
    differences = await _differences(connection, schema, *wanted)
    if keeps_rejected:
        differences.missing.update(await _missing_kept(connection, schema))
    if not differences.missing:
        return differences
    async with connection.transaction():
        await lock(connection, schema)
        differences = await _differences(connection, schema, *wanted)
        if keeps_rejected or not differences.missing.keys() <= differences.columns.keys():
            differences.missing.update(await _missing_kept(connection, schema))
        for sentence, statement in list(differences.missing.items()):
            if not columns_can_wait or sentence not in differences.columns:
                await connection.execute(statement)
            elif reason := await _left_to_setup(
                connection, differences.columns[sentence], statement, mode
            ):
                del differences.missing[sentence]
                differences.warnings.append(f"not yet {sentence}: {reason}; setup adds them")
        await checkpoints.forget_created(connection, schema, differences.created)
    return differences


async def _left_to_setup(
    connection: Connection, table: Table, statement: str, mode: ColumnMode
) -> str:
    """Adds columns to a table, or says why that is left to setup; empty when it is done."""
    if mode == "stored":
        size = await connection.fetchval(_TABLE_SIZE, table.quoted)
        if size > _LARGE_TABLE:
            return f"the table of {size >> 20} MiB would be written anew"
    try:
        async with connection.transaction():
            await connection.execute(statement)
    except asyncpg.InsufficientPrivilegeError as error:
        return error.args[0] if error.args else "the role may not"
    return ""


async def is_complete(
    connection: Connection,
    schema: str,
    tables: Sequence[Table],
    columns: ColumnMode | None,
    *,
    hard_delete: bool,
) -> bool:
    """Whether ``make_missing`` would find nothing to make. Raises as it does."""
    refuse_protected(schema)
    mode = _column_mode(connection, columns)
    found = await _differences(connection, schema, tables, mode, hard_delete)
    return found.optional.issuperset(found.missing)


async def _differences(
    connection: Connection,
    schema: str,
    tables: Sequence[Table],
    mode: ColumnMode,
    hard_delete: bool,
) -> Differences:
    found = Differences()
    if not await connection.fetchval(_SCHEMA_EXISTS, schema):
        found.missing[f"created schema {quote(schema)}"] = f"CREATE SCHEMA {quote(schema)}"
    existing = await existing_tables(connection, schema, tables)
    for table in by_name(tables):
        if table.name not in existing:
            found.missing[f"created table {table.quoted}"] = _create_table(table, mode)
            found.created.add(table.stream)
            continue
        _refuse_foreign(table, existing[table.name])
        if mode != "none":
            outdated = _outdated_columns(table, existing[table.name])
            added = {**_missing_columns(table, existing[table.name], mode), **outdated}
            found.missing.update(added)
            found.optional.update(outdated)
            found.columns.update(dict.fromkeys(added, table))
            found.warnings.extend(_warnings(table, existing[table.name]))
    if hard_delete and not await deleted_rows.exists(connection, schema):
        name = deleted_rows.quoted(schema)
        found.missing[f"created table {name}"] = deleted_rows.create_statement(schema)
    return found


async def _missing_kept(connection: Connection, schema: str) -> Mapping[str, str]:
    """The tables of rejected records and of recorded checkpoints."""
    missing = {}
    if await rejected_table.is_usable(connection, schema) is None:
        name = rejected_table.quoted(schema)
        missing[f"created table {name}"] = rejected_table.create_statement(schema)
    access = await checkpoints.access(connection, schema)
    if access.is_usable is None and access.may_create:
        name = checkpoints.quoted(schema)
        missing[f"created table {name}"] = checkpoints.create_statement(schema)
    return missing


def _refuse_foreign(table: Table, existing: ExistingTable) -> None:
    if not existing.is_ours:
        raise ConnectorError(
            f"table {table.quoted} was made by others: choose another schema, or rename it"
        )
    key = {column.name for column in table.key}
    if existing.key != key:
        raise ConnectorError(
            f"table {table.quoted} has the primary key ({_names(sorted(existing.key))}), and "
            f"stream {table.stream} needs ({_names(column.name for column in table.key)}): "
            "rename the table or drop it, then sync with the state reset to have it made anew"
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


def _column_mode(connection: Connection, wanted: ColumnMode | None) -> ColumnMode:
    version = connection.get_server_version().major
    if wanted == "virtual" and version < _VIRTUAL_COLUMNS_SINCE:
        raise ConnectorError(
            f"columns: virtual needs Postgres {_VIRTUAL_COLUMNS_SINCE} or newer, "
            f"and this is {version}: choose stored"
        )
    if wanted is None:
        return "virtual" if version >= _VIRTUAL_COLUMNS_SINCE else "stored"
    return wanted
