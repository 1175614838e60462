"""Makes what is missing of the schema and its tables, and drops it again."""

from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files

from engine_server.connectors.postgres.pool import Connection
from engine_server.connectors.postgres.tables import (
    ACCOUNT_ID,
    LAST_SYNCED_AT,
    RAW_DATA,
    ColumnMode,
    GeneratedColumn,
    Table,
    quote,
)
from engine_server.errors import ConnectorError

_COLUMNS = files(__package__).joinpath("columns.sql").read_text()
_CREATE_TABLE = files(__package__).joinpath("create_table.sql").read_text()
_MAY_DROP_SCHEMA = files(__package__).joinpath("may_drop_schema.sql").read_text()
_VIRTUAL_COLUMNS_SINCE = 18
# Asked of the table itself: to_regnamespace() may answer from a cache that is behind the lock.
_SCHEMA_EXISTS = "SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = $1)"
# Two set-ups of one schema take turns; the lock goes with the transaction.
_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('pipesync ' || $1, 0))"


async def make_missing(
    connection: Connection, schema: str, tables: Sequence[Table], columns: ColumnMode | None
) -> list[str]:
    """Makes the schema, tables and columns that are not there yet, all of them or none.

    Safe to repeat, and to run twice at once. When nothing is missing it only reads.

    Returns:
        A sentence for each thing made.

    Raises:
        ConnectorError: A table of that name was made by others, or the server is too old for the
            columns that were asked for.
    """
    mode = _column_mode(connection, columns)
    if not await _missing(connection, schema, tables, mode):
        return []
    async with connection.transaction():
        await connection.execute(_LOCK, schema)
        missing = await _missing(connection, schema, tables, mode)
        for statement in missing.values():
            await connection.execute(statement)
    return list(missing)


async def is_complete(
    connection: Connection, schema: str, tables: Sequence[Table], columns: ColumnMode | None
) -> bool:
    """Whether ``make_missing`` would find nothing to do."""
    return not await _missing(connection, schema, tables, _column_mode(connection, columns))


async def drop(connection: Connection, schema: str, tables: Sequence[Table]) -> list[str]:
    """Drops the tables, and the schema if that leaves it empty, all of it or nothing.

    A schema of Postgres's own is refused. ``public`` is kept, and so is a table of that name that
    was made by others.

    Returns:
        A sentence for each thing dropped or left alone.

    Raises:
        ConnectorError: The schema is one of Postgres's own.
    """
    if schema.startswith("pg_") or schema == "information_schema":
        raise ConnectorError(f"schema {schema} belongs to Postgres itself: nothing was dropped")
    done: list[str] = []
    async with connection.transaction():
        await connection.execute(_LOCK, schema)
        existing = await _existing(connection, schema, tables)
        for table in _by_name(tables):
            if table.name not in existing:
                continue
            if not _is_ours(existing[table.name]):
                done.append(f"left table {table.quoted} alone: it was made by others")
                continue
            await connection.execute(f"DROP TABLE {table.quoted}")
            done.append(f"dropped table {table.quoted}")
        if schema != "public" and await connection.fetchval(_MAY_DROP_SCHEMA, schema):
            await connection.execute(f"DROP SCHEMA {quote(schema)}")
            done.append(f"dropped schema {quote(schema)}")
    return done


async def _missing(
    connection: Connection, schema: str, tables: Sequence[Table], mode: ColumnMode
) -> Mapping[str, str]:
    """What is to be done: sentence → statement, in order."""
    missing: dict[str, str] = {}
    if not await connection.fetchval(_SCHEMA_EXISTS, schema):
        missing[f"created schema {quote(schema)}"] = f"CREATE SCHEMA {quote(schema)}"
    existing = await _existing(connection, schema, tables)
    for table in _by_name(tables):
        columns = existing.get(table.name)
        if columns is None:
            missing[f"created table {table.quoted}"] = _create_table(table, mode)
            continue
        if not _is_ours(columns):
            raise ConnectorError(
                f"table {table.quoted} was made by others: choose another schema, or rename it"
            )
        added = [column for column in table.generated if column.name not in columns]
        if added and mode != "none":
            names = ", ".join(quote(column.name) for column in added)
            clauses = ", ".join(f"ADD COLUMN {_column(column, mode)}" for column in added)
            missing[f"added to table {table.quoted}: {names}"] = (
                f"ALTER TABLE {table.quoted} {clauses}"
            )
    return missing


async def _existing(
    connection: Connection, schema: str, tables: Sequence[Table]
) -> Mapping[str, frozenset[str]]:
    rows = await connection.fetch(_COLUMNS, schema, [table.name for table in tables])
    return {row["name"]: frozenset(row["columns"]) for row in rows}


def _by_name(tables: Iterable[Table]) -> list[Table]:
    # Always in one order, so that two sessions cannot lock each other's tables out.
    return sorted(tables, key=lambda table: table.name)


def _is_ours(columns: frozenset[str]) -> bool:
    return {RAW_DATA, LAST_SYNCED_AT} <= columns


def _create_table(table: Table, mode: ColumnMode) -> str:
    key = [quote(column.name) for column in table.key]
    account_is_key = any(column.name == ACCOUNT_ID for column in table.key)
    generated = () if mode == "none" else table.generated
    return _CREATE_TABLE.format(
        table=table.quoted,
        key_columns=", ".join(f"{name} text" for name in key),
        account_id="" if account_is_key else f"{quote(ACCOUNT_ID)} text,",
        generated_columns="".join(f"{_column(column, mode)}, " for column in generated),
        key=", ".join(key),
    )


def _column(column: GeneratedColumn, mode: ColumnMode) -> str:
    return f"{quote(column.name)} {column.type} GENERATED ALWAYS AS ({column.expression}) {mode}"


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
