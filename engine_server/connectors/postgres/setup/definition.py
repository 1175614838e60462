"""Definitions of the streams' tables and columns."""

from collections.abc import Iterable
from importlib.resources import files

from engine_server.connectors.postgres.connection.pool import Connection
from engine_server.connectors.postgres.schema.tables import (
    ACCOUNT_ID,
    ColumnMode,
    GeneratedColumn,
    Table,
    quote,
)
from engine_server.connectors.postgres.stored_rows.queries import owner_index
from engine_server.errors import ConnectorError

_CREATE_TABLE = files(__package__).joinpath("create_table.sql").read_text()
_VIRTUAL_COLUMNS_SINCE = 18


def column_mode(connection: Connection, wanted: ColumnMode | None) -> ColumnMode:
    """Return the mode of typed columns.

    Raises:
        ConnectorError: The server is too old for the wanted mode.
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


def create_table(table: Table, mode: ColumnMode) -> str:
    """Return the statement that creates a stream's table, with the index that events use."""
    key = [quote(column.name) for column in table.key]
    account_is_key = any(column.name == ACCOUNT_ID for column in table.key)
    generated = () if mode == "none" else table.generated
    statement = _CREATE_TABLE.format(
        table=table.quoted,
        key_columns=", ".join(f"{name} text" for name in key),
        account_id="" if account_is_key else f"{quote(ACCOUNT_ID)} text,",
        generated_columns="".join(f"{column_clause(column, mode)}, " for column in generated),
        key=", ".join(key),
    )
    if not table.owner_field:
        return statement
    # On an empty table it costs nothing. Events use it to find the items of their object.
    return f"{statement};\n{owner_index(table, table.owner_field).statement}"


def column_clause(column: GeneratedColumn, mode: ColumnMode) -> str:
    """Return the definition of a typed column."""
    return f"{quote(column.name)} {column.type} GENERATED ALWAYS AS ({column.expression}) {mode}"


def quoted_names(names: Iterable[str]) -> str:
    """Return the names, quoted and separated by commas."""
    return ", ".join(map(quote, names))
