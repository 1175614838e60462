"""The SQL statement that upserts one batch of one stream."""

from collections.abc import Iterable, Sequence
from importlib.resources import files

from engine_server.connectors.postgres.rows.row import StreamRows
from engine_server.connectors.postgres.schema import rejected_table, tombstones
from engine_server.connectors.postgres.schema.tables import (
    ACCOUNT_ID,
    LAST_SYNCED_AT,
    RAW_DATA,
    UPDATED_AT,
    KeyColumn,
    Table,
    literal,
    quote,
)

_SQL = files(__package__)
_TEMPLATE = _SQL.joinpath("upsert.sql").read_text()
# Parts for tables with deletions only: each of them makes the statement slower.
_MERGED = _SQL.joinpath("upsert_merged.sql").read_text()
_MERGED_AGAIN = _SQL.joinpath("upsert_merged_again.sql").read_text()
_REMOVED = _SQL.joinpath("upsert_removed.sql").read_text()
_TOMBSTONES = _SQL.joinpath("upsert_tombstones.sql").read_text()
# The part for streams with rejected records only.
_CLEARED = _SQL.joinpath("upsert_cleared.sql").read_text()

_SEPARATOR = b"\x1e"
_BETWEEN_OBJECTS = b"}" + _SEPARATOR
# No text in Postgres may contain this byte.
_REFUSED_BYTE = b"\0"

_EXTRACTED = {ACCOUNT_ID: "extracted_account_id", UPDATED_AT: "extracted_updated_at"}


def upsert_statement(table: Table, *, hard_delete: bool, clears_rejected: bool = False) -> str:
    """Return SQL for the arguments of ``upsert_arguments``.

    It returns one row with the counts inserted, updated and deleted. A record that none of them
    counts changed nothing: it was older than the stored row, equal to it, or superseded within the
    batch.

    Args:
        table: The table.
        hard_delete: Whether deleted rows are removed.
        clears_rejected: Whether the statement drops rejected records that the batch outdates.
    """
    merges = bool(table.soft_delete_field) and not hard_delete
    removes = bool(table.soft_delete_field) and hard_delete
    aliases = [f"key_{number}" for number in range(1, len(table.key) + 1)]
    key_columns = [quote(column.name) for column in table.key]
    account_is_key = any(column.name == ACCOUNT_ID for column in table.key)
    account_columns = [] if account_is_key else [ACCOUNT_ID]

    newest = [f"newest.{alias}" for alias in aliases]
    stored_is_newest = _equal([f"stored.{column}" for column in key_columns], newest)
    incoming = [f"incoming.{alias}" for alias in aliases]
    excluded = [f"excluded.{column}" for column in key_columns]
    merged = _MERGED.format(incoming_is_newest=_equal(incoming, newest))
    merged_again = _MERGED_AGAIN.format(
        table=table.quoted,
        is_deleted_excluded=_is_deleted(table, "excluded._raw_data"),
        seen_is_excluded=_equal([f"seen.{column}" for column in key_columns], excluded),
        incoming_is_excluded=_equal(incoming, excluded),
    )
    removed = ""
    if removes:
        removed = _REMOVED.format(table=table.quoted, stored_is_newest=stored_is_newest)
    if hard_delete and tombstones.are_kept(table):
        removed += _TOMBSTONES.format(
            tombstones=tombstones.quoted(table.schema),
            table_name=literal(table.name),
            newest_key=_array(newest),
        )
    if clears_rejected:
        removed += _CLEARED.format(
            rejected=rejected_table.quoted(table.schema),
            stream=literal(table.stream),
            newest_key=_array(newest),
        )
    deleted_first = bool(table.soft_delete_field and table.newer_than_field)
    return _TEMPLATE.format(
        table=table.quoted,
        key=", ".join(key_columns),
        key_values=", ".join(
            f"{_value(column)} AS {alias}" for column, alias in zip(table.key, aliases, strict=True)
        ),
        # Any order will do, and comparing bytes is faster than a collation.
        key_order=", ".join(f'{alias} COLLATE "C"' for alias in aliases),
        deleted_first=", (deleted AND updated_at IS NOT NULL) DESC" if deleted_first else "",
        newest_is_not_deleted=_newest_is_not_deleted(table, newest, hard_delete=hard_delete),
        excluded_is_not_deleted=_excluded_is_not_deleted(table) if merges else "",
        stored_is_newest=stored_is_newest,
        columns=", ".join([*key_columns, *account_columns, RAW_DATA, UPDATED_AT, LAST_SYNCED_AT]),
        values=", ".join([*aliases, *(["account_id"] if account_columns else [])]),
        set_account_id="" if account_is_key else "_account_id = excluded._account_id,",
        account_id=_text(ACCOUNT_ID),
        updated_at=_updated_at(table),
        is_deleted_record=_is_deleted(table, "record"),
        is_deleted_stored=_is_deleted(table, "stored._raw_data"),
        merged=merged if merges else "newest.raw_data",
        merged_again=merged_again if merges else "excluded._raw_data",
        removes="true" if removes else "false",
        removed=removed,
        removed_count="(SELECT count(*) FROM removed)" if removes else "0",
    )


def upsert_arguments(rows: StreamRows) -> tuple[bytes, str, str, bool]:
    """Return the arguments of a statement of ``upsert_statement``, for at least one row."""
    # The last bracket follows no separator. Appending it to the joined text would copy all of that.
    objects = [*rows.objects[:-1], rows.objects[-1] + b"}"]
    text = _BETWEEN_OBJECTS.join(objects)
    # One search through all of them is far faster than one for each.
    if text.count(_SEPARATOR) >= len(objects):
        # A record with a separator is no JSON: Postgres must refuse that record and no other.
        text = _BETWEEN_OBJECTS.join(
            [record.replace(_SEPARATOR, _REFUSED_BYTE) for record in objects]
        )
    separator = _SEPARATOR.decode()
    return (
        text,
        separator.join(rows.account_ids),
        separator.join(rows.updated_ats),
        rows.are_change_events,
    )


def _newest_is_not_deleted(table: Table, newest: Sequence[str], *, hard_delete: bool) -> str:
    """Return a condition that no deletion of the same second or later is known."""
    if not (table.soft_delete_field and table.newer_than_field):
        return ""
    if hard_delete:
        return (
            f"AND NOT EXISTS (SELECT FROM {tombstones.quoted(table.schema)} AS tombstone "
            f"WHERE tombstone.table_name = {literal(table.name)} "
            f"AND tombstone.key = {_array(newest)} "
            "AND newest.updated_at <= tombstone._updated_at)"
        )
    return (
        "AND ((newest.updated_at = stored._updated_at) IS NOT TRUE OR newest.deleted "
        f"OR NOT {_is_deleted(table, 'stored._raw_data')})"
    )


def _excluded_is_not_deleted(table: Table) -> str:
    if not table.newer_than_field:
        return ""
    return (
        "AND ((excluded._updated_at = stored._updated_at) IS NOT TRUE "
        f"OR {_is_deleted(table, 'excluded._raw_data')} "
        f"OR NOT {_is_deleted(table, 'stored._raw_data')})"
    )


def _array(values: Sequence[str]) -> str:
    return f"ARRAY[{', '.join(values)}]"


def _equal(ones: Iterable[str], others: Iterable[str]) -> str:
    return " AND ".join(f"{one} = {other}" for one, other in zip(ones, others, strict=True))


def _value(column: KeyColumn) -> str:
    if len(column.path) == 1:
        return _text(column.path[0])
    return f"record #>> ARRAY[{', '.join(map(literal, column.path))}]"


def _updated_at(table: Table) -> str:
    if not table.newer_than_field:
        return "NULL::timestamptz"
    return f"to_timestamp(({_text(table.newer_than_field)})::double precision)"


def _text(field: str) -> str:
    inside = f"record ->> {literal(field)}"
    # Of two fields with one name the last counts, and the metadata was extracted from the end.
    return f"coalesce({_EXTRACTED[field]}, {inside})" if field in _EXTRACTED else inside


def _is_deleted(table: Table, record: str) -> str:
    if not table.soft_delete_field:
        return "false"
    return f"(({record} -> {literal(table.soft_delete_field)}) = 'true') IS TRUE"
