"""Definition of a stream's table: names, key and typed columns."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from google.protobuf.json_format import MessageToDict

from engine_server.connectors.postgres.config_rules import MAX_IDENTIFIER_BYTES
from engine_server.connectors.protocols import SelectedStream
from engine_server.errors import ConnectorError

ColumnMode = Literal["stored", "virtual", "none"]

# Columns of every table besides its key.
ACCOUNT_ID = "_account_id"
RAW_DATA = "_raw_data"
UPDATED_AT = "_updated_at"
LAST_SYNCED_AT = "_last_synced_at"
_BOOKKEEPING = (RAW_DATA, ACCOUNT_ID, UPDATED_AT, LAST_SYNCED_AT)
# https://www.postgresql.org/docs/current/ddl-system-columns.html
_SYSTEM_COLUMNS = frozenset({"tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"})
_HASH_LENGTH = 8

# A record whose field has another type than its schema declares is accepted: the column reads NULL,
# and _raw_data has the value. Of all jsonb values only numbers lie between two numbers, and a cast
# to bigint would silently round a fraction.
_COLUMN_TYPES: Mapping[str, tuple[str, str]] = {
    "integer": (
        "bigint",
        (
            "CASE WHEN {value} BETWEEN '-9223372036854775808' AND '9223372036854775807' "
            "THEN CASE {value}::numeric % 1 WHEN 0 THEN {value}::bigint END END"
        ),
    ),
    "number": ("numeric", "CASE jsonb_typeof({value}) WHEN 'number' THEN {value}::numeric END"),
    "boolean": ("boolean", "CASE jsonb_typeof({value}) WHEN 'boolean' THEN {value}::boolean END"),
    "string": ("text", "{text}"),
}
# An expanded reference has its object in place of its id.
_REFERENCE_COLUMN = (
    "text",
    "CASE jsonb_typeof({value}) WHEN 'object' THEN {value} ->> 'id' ELSE {text} END",
)
_JSON_COLUMN = ("jsonb", "nullif({value}, 'null')")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyColumn:
    """A text column of the primary key.

    Attributes:
        name: The column.
        path: The path of its value in a record, outermost segment first.
    """

    name: str
    path: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratedColumn:
    """A typed column that Postgres generates from _raw_data.

    Attributes:
        name: The column.
        type: Its SQL type.
        expression: SQL over ``_raw_data``, immutable, that fails for no record.
        is_reference: Whether it holds the id of a reference that may be expanded.
    """

    name: str
    type: str
    expression: str
    is_reference: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The table of one stream.

    Attributes:
        stream: The stream's name.
        schema: The schema, unquoted.
        name: The table, unquoted.
        key: Its primary key, in order; never empty.
        generated: A column for each top-level field that is not a column already.
        account_id: The account of all its records; empty when it is unknown.
        newer_than_field: See ``Stream``; empty for none.
        soft_delete_field: See ``Stream``; empty for none.
        time_range_field: See ``Stream``; empty for none.
        owner_field: See ``Stream``; empty for none.
    """

    stream: str
    schema: str
    name: str
    key: tuple[KeyColumn, ...]
    generated: tuple[GeneratedColumn, ...]
    account_id: str
    newer_than_field: str
    soft_delete_field: str
    time_range_field: str
    owner_field: str = ""

    @property
    def quoted(self) -> str:
        """The qualified name, for SQL."""
        return f"{quote(self.schema)}.{quote(self.name)}"

    @property
    def names(self) -> frozenset[str]:
        """Every name that may appear in messages, as it is no value of a row."""
        columns = [column.name for column in self.key] + [column.name for column in self.generated]
        own = (self.stream, self.schema, self.name, f"{self.schema}.{self.name}")
        return frozenset((*own, *columns, *_BOOKKEEPING))


def table_of(selected: SelectedStream, schema: str) -> Table:
    """Return the table of ``selected``.

    Raises:
        ConnectorError: The stream has no primary key, so the row of a record is unknown.
    """
    stream = selected.stream
    key = _key_columns([tuple(path.segments) for path in stream.primary_key])
    if not key:
        raise ConnectorError(f"stream {stream.name} has no primary key: it cannot be upserted")
    taken = {*_BOOKKEEPING, *(column.name for column in key)}
    fields: Mapping[str, Any] = MessageToDict(stream.json_schema).get("properties", {})
    wanted = selected.selection.fields or fields
    references = frozenset(stream.reference_fields)
    return Table(
        stream=stream.name,
        schema=schema,
        name=identifier(stream.name),
        key=key,
        generated=tuple(
            _generated_column(field, declared, is_reference=field in references)
            # A Struct has no order of its own.
            for field, declared in sorted(fields.items())
            if field in wanted and _column_name(field) not in taken
        ),
        account_id=MessageToDict(stream.metadata).get("account_id", ""),
        newer_than_field=stream.newer_than_field,
        soft_delete_field=stream.soft_delete_field,
        time_range_field=stream.time_range_field,
        owner_field=stream.owner_field,
    )


def by_name(tables: Iterable[Table]) -> list[Table]:
    """Return ``tables`` in one order, so that two sessions cannot deadlock."""
    return sorted(tables, key=lambda table: table.name)


def identifier(name: str) -> str:
    """Return ``name`` as an identifier: above 63 bytes, it ends in a hash of the whole name."""
    return name if len(name.encode()) <= MAX_IDENTIFIER_BYTES else _hashed(name)


def quote(name: str) -> str:
    """Return an identifier, quoted for SQL."""
    escaped = name.replace('"', '""')
    return f'"{escaped}"'


def literal(text: str) -> str:
    """Return a string constant, quoted for SQL."""
    escaped = text.replace("'", "''")
    return f"'{escaped}'"


def typed_value(field: str, json_type: str, *, is_reference: bool = False) -> tuple[str, str]:
    """Return the SQL type of a field, and an immutable expression over ``_raw_data``.

    Args:
        field: A top-level field.
        json_type: Its only JSON type besides null; empty when it has several.
        is_reference: Whether it may be an object with an id in place of an id.
    """
    sql_type, expression = _COLUMN_TYPES.get(json_type, _JSON_COLUMN)
    if is_reference:
        sql_type, expression = _REFERENCE_COLUMN
    raw_data, key = quote(RAW_DATA), literal(field)
    return sql_type, expression.format(
        value=f"({raw_data} -> {key})", text=f"({raw_data} ->> {key})"
    )


def _key_columns(paths: list[tuple[str, ...]]) -> tuple[KeyColumn, ...]:
    last_segments = [path[-1] for path in paths]
    return tuple(
        KeyColumn(
            name=_column_name(path[-1] if last_segments.count(path[-1]) == 1 else "_".join(path)),
            path=path,
        )
        for path in paths
    )


def _generated_column(
    field: str, declared: Mapping[str, Any], *, is_reference: bool
) -> GeneratedColumn:
    is_reference = is_reference and _json_type(declared) == "string"
    sql_type, expression = typed_value(field, _json_type(declared), is_reference=is_reference)
    return GeneratedColumn(
        name=_column_name(field),
        type=sql_type,
        expression=expression,
        is_reference=is_reference,
    )


def _json_type(declared: Mapping[str, Any]) -> str:
    """Return the only JSON type of a field besides null; empty when it has several or none."""
    types = declared.get("type", [])
    others = [name for name in ([types] if isinstance(types, str) else types) if name != "null"]
    return others[0] if len(others) == 1 else ""


def _column_name(field: str) -> str:
    return _hashed(field) if field in _SYSTEM_COLUMNS else identifier(field)


def _hashed(name: str) -> str:
    encoded = name.encode()
    digest = hashlib.sha256(encoded).hexdigest()[:_HASH_LENGTH]
    kept = encoded[: MAX_IDENTIFIER_BYTES - _HASH_LENGTH - 1].decode(errors="ignore")
    return f"{kept}_{digest}"
