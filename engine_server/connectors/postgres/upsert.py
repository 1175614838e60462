"""The statement that writes one batch of one stream."""

from collections.abc import Iterable, Sequence
from importlib.resources import files

from engine_server.connectors.postgres import deleted_rows, rejected_table
from engine_server.connectors.postgres.rows import StreamRows
from engine_server.connectors.postgres.tables import (
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
# The parts that only tables with deletions have: each makes the statement dearer.
_MERGED = _SQL.joinpath("upsert_merged.sql").read_text()
_MERGED_AGAIN = _SQL.joinpath("upsert_merged_again.sql").read_text()
_REMOVED = _SQL.joinpath("upsert_removed.sql").read_text()
_NOTED = _SQL.joinpath("upsert_noted.sql").read_text()
# The part that only a stream with rejected records has.
_CLEARED = _SQL.joinpath("upsert_cleared.sql").read_text()

_SEPARATOR = b"\x1e"
_BETWEEN_OBJECTS = b"}" + _SEPARATOR
# Of which no text in Postgres has any.
_REFUSED_BYTE = b"\0"

_LIFTED = {ACCOUNT_ID: "stamped_account_id", UPDATED_AT: "stamped_updated_at"}


def upsert_statement(table: Table, *, hard_delete: bool, clears_rejected: bool = False) -> str:
    """SQL for what ``upsert_arguments`` makes. It answers one row: inserted, updated, deleted.

    Whatever is not counted there changed nothing: it was older than what is stored, equal to it, or
    superseded within the batch.

    Args:
        table: Where the rows go.
        hard_delete: Whether deleted rows are removed.
        clears_rejected: Whether rejected records that these outdate are dropped with it.
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
    if hard_delete and deleted_rows.are_noted(table):
        removed += _NOTED.format(
            deleted=deleted_rows.quoted(table.schema),
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
        # Bytes compare faster than words, and any order will do.
        key_order=", ".join(f'{alias} COLLATE "C"' for alias in aliases),
        deleted_first=", (deleted AND updated_at IS NOT NULL) DESC" if deleted_first else "",
        newest_is_not_gone=_newest_is_not_gone(table, newest, hard_delete=hard_delete),
        excluded_is_not_gone=_excluded_is_not_gone(table) if merges else "",
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
    """What a statement of ``upsert_statement`` takes, for one row at least."""
    # The one bracket that no separator brings: to add it to all of the text would copy that.
    objects = [*rows.objects[:-1], rows.objects[-1] + b"}"]
    text = _BETWEEN_OBJECTS.join(objects)
    # To look through all of them at once is faster by far than one by one.
    if text.count(_SEPARATOR) >= len(objects):
        # No such record is JSON, and Postgres is to say so of that one and no other.
        text = _BETWEEN_OBJECTS.join(
            [record.replace(_SEPARATOR, _REFUSED_BYTE) for record in objects]
        )
    separator = _SEPARATOR.decode()
    return (
        text,
        separator.join(rows.account_ids),
        separator.join(rows.updated_ats),
        rows.are_changes,
    )


def _newest_is_not_gone(table: Table, newest: Sequence[str], *, hard_delete: bool) -> str:
    """A condition: what was deleted in the same second or later, as far as is known, stays so."""
    if not (table.soft_delete_field and table.newer_than_field):
        return ""
    if hard_delete:
        return (
            f"AND NOT EXISTS (SELECT FROM {deleted_rows.quoted(table.schema)} AS gone "
            f"WHERE gone.table_name = {literal(table.name)} AND gone.key = {_array(newest)} "
            "AND newest.updated_at <= gone._updated_at)"
        )
    return (
        "AND ((newest.updated_at = stored._updated_at) IS NOT TRUE OR newest.deleted "
        f"OR NOT {_is_deleted(table, 'stored._raw_data')})"
    )


def _excluded_is_not_gone(table: Table) -> str:
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
    # Of two fields of one name the last is meant, and stamps were lifted from the end.
    return f"coalesce({_LIFTED[field]}, {inside})" if field in _LIFTED else inside


def _is_deleted(table: Table, record: str) -> str:
    if not table.soft_delete_field:
        return "false"
    return f"(({record} -> {literal(table.soft_delete_field)}) = 'true') IS TRUE"
