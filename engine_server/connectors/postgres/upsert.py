"""The statement that writes one batch of one stream."""

from importlib.resources import files

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

_TEMPLATE = files(__package__).joinpath("upsert.sql").read_text()


def upsert_statement(table: Table, *, hard_delete: bool) -> str:
    """SQL that takes ``jsonb[]`` as $1 and answers one row: inserted, updated, deleted.

    Whatever is not counted there changed nothing: it was older than what is stored, equal to it, or
    superseded within the batch.
    """
    aliases = [f"key_{number}" for number in range(1, len(table.key) + 1)]
    pairs = list(zip(table.key, aliases, strict=True))
    key_columns = [quote(column.name) for column in table.key]
    account_is_key = any(column.name == ACCOUNT_ID for column in table.key)
    account_columns = [] if account_is_key else [ACCOUNT_ID]
    return _TEMPLATE.format(
        table=table.quoted,
        hard_delete="true" if hard_delete else "false",
        key=", ".join(key_columns),
        key_values=", ".join(f"{_value(column)} AS {alias}" for column, alias in pairs),
        # Bytes compare faster than words, and any order will do.
        key_order=", ".join(f'{alias} COLLATE "C"' for alias in aliases),
        stored_is_newest=" AND ".join(
            f"stored.{quote(column.name)} = newest.{alias}" for column, alias in pairs
        ),
        seen_is_excluded=" AND ".join(
            f"seen.{column} = excluded.{column}" for column in key_columns
        ),
        newest_is_excluded=" AND ".join(
            f"newest.{alias} = excluded.{quote(column.name)}" for column, alias in pairs
        ),
        incoming_is_newest=" AND ".join(f"incoming.{alias} = newest.{alias}" for alias in aliases),
        columns=", ".join([*key_columns, *account_columns, RAW_DATA, UPDATED_AT, LAST_SYNCED_AT]),
        values=", ".join([*aliases, *(["account_id"] if account_columns else [])]),
        set_account_id="" if account_is_key else "_account_id = excluded._account_id,",
        updated_at=_updated_at(table),
        is_deleted_record=_is_deleted(table, "record"),
        is_deleted_excluded=_is_deleted(table, "excluded._raw_data"),
        is_deleted_stored=_is_deleted(table, "stored._raw_data"),
    )


def _value(column: KeyColumn) -> str:
    if len(column.path) == 1:
        return f"record ->> {literal(column.path[0])}"
    return f"record #>> ARRAY[{', '.join(map(literal, column.path))}]"


def _updated_at(table: Table) -> str:
    if not table.newer_than_field:
        return "NULL::timestamptz"
    return f"to_timestamp((record ->> {literal(table.newer_than_field)})::double precision)"


def _is_deleted(table: Table, record: str) -> str:
    if not table.soft_delete_field:
        return "false"
    return f"(({record} -> {literal(table.soft_delete_field)}) = 'true') IS TRUE"
