"""Queries of the stored rows of a table, and the index that each of them uses."""

import hashlib
from dataclasses import dataclass
from importlib.resources import files

from engine_server.connectors.postgres.schema.tables import (
    ACCOUNT_ID,
    RAW_DATA,
    UPDATED_AT,
    Table,
    identifier,
    literal,
    quote,
    typed_value,
)

_SQL = files(__package__)
_CREATED_IN = _SQL.joinpath("created_in.sql").read_text()
_BELONGING_TO = _SQL.joinpath("belonging_to.sql").read_text()
_UPDATE_TIMES = _SQL.joinpath("update_times.sql").read_text()
_INDEX = _SQL.joinpath("index.sql").read_text()

# Rows of one page: a few hundred kilobytes of ids.
PAGE_ROWS = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """An index that saves a query from reading the whole table.

    Attributes:
        name: The unquoted name, different for each definition.
        statement: SQL that creates it, and blocks writers meanwhile.
    """

    name: str
    statement: str

    @property
    def concurrent_statement(self) -> str:
        """SQL that creates it without blocking writers; outside of transactions only."""
        return self.statement.replace("CREATE INDEX", "CREATE INDEX CONCURRENTLY", 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A statement with its arguments."""

    statement: str
    arguments: tuple[object, ...]


def time_index(table: Table) -> Index:
    """Return the index of ``created_in`` with bounds, a partial one without deleted rows."""
    return _index(table, f"({_time(table)})", f" WHERE {' AND '.join(_conditions(table))}")


def owner_index(table: Table, field: str) -> Index:
    """Return the index of ``belonging_to``.

    It covers all rows. The planner ignores the statistics of a partial index on an expression, and
    would read the whole table to find a hundred owners.
    """
    return _index(table, f"({_text(field)})", "")


def created_in(
    table: Table, account_id: str, gte: int | None, lt: int | None, after: tuple[int, str] | None
) -> Query:
    """Return a query of ``id`` and ``time``, newest first, for at most ``PAGE_ROWS`` rows.

    Without bounds, rows without a time are included, ``time`` is NULL, and the order is by id.

    Args:
        table: The table.
        account_id: The account of the rows; empty for all accounts.
        gte: Inclusive lower bound of the time; None for no bound.
        lt: Exclusive upper bound of the time; None for no bound.
        after: The time and id of the last row of the previous page; None for the first page.
    """
    has_bounds = gte is not None or lt is not None
    time, row_id = _time(table) if has_bounds else "NULL::bigint", _id(table)
    arguments: list[object] = []

    def argument(value: object, sql_type: str) -> str:
        arguments.append(value)
        return f"${len(arguments)}::{sql_type}"

    conditions = _conditions(table)
    if account_id:
        conditions.append(f"{quote(ACCOUNT_ID)} = {argument(account_id, 'text')}")
    if gte is not None:
        conditions.append(f"{time} >= {argument(gte, 'bigint')}")
    if lt is not None:
        conditions.append(f"{time} < {argument(lt, 'bigint')}")
    if after is not None and has_bounds:
        last = f"({argument(after[0], 'bigint')}, {argument(after[1], 'text')})"
        conditions.append(f"({time}, {row_id}) < {last}")
    elif after is not None:
        conditions.append(f"{row_id} > {argument(after[1], 'text')}")
    statement = _CREATED_IN.format(
        columns=f"{row_id} AS id, {time} AS time",
        table=table.quoted,
        conditions=" AND ".join(conditions),
        order=f"{time} DESC, {row_id} DESC" if has_bounds else row_id,
        limit=PAGE_ROWS,
    )
    return Query(statement=statement, arguments=tuple(arguments))


def belonging_to(table: Table, account_id: str, field: str, owners: list[str]) -> Query:
    """Return a query of ``owner`` and ``id`` for the rows whose ``field`` is one of ``owners``."""
    conditions = [f"{_text(field)} = ANY($1::text[])", *_conditions(table)]
    arguments: list[object] = [owners]
    if account_id:
        arguments.append(account_id)
        conditions.append(f"{quote(ACCOUNT_ID)} = $2::text")
    statement = _BELONGING_TO.format(
        owner=_text(field),
        id=_id(table),
        table=table.quoted,
        conditions=" AND ".join(conditions),
    )
    return Query(statement=statement, arguments=tuple(arguments))


def update_times(table: Table, account_id: str, ids: list[str]) -> Query:
    """Return a query of ``id`` and ``update_time`` for the rows with these ids."""
    conditions = [f"{_id(table)} = ANY($1::text[])", f"{quote(UPDATED_AT)} IS NOT NULL"]
    arguments: list[object] = [ids]
    if account_id:
        arguments.append(account_id)
        conditions.append(f"{quote(ACCOUNT_ID)} = $2::text")
    statement = _UPDATE_TIMES.format(
        id=_id(table),
        updated_at=quote(UPDATED_AT),
        table=table.quoted,
        conditions=" AND ".join(conditions),
    )
    return Query(statement=statement, arguments=tuple(arguments))


def _index(table: Table, first: str, where: str) -> Index:
    """Return an index by expression and id, led by the account where the key has that column."""
    columns = [first, _id(table)]
    if any(column.name == ACCOUNT_ID for column in table.key):
        columns.insert(0, quote(ACCOUNT_ID))
    definition = f"({', '.join(columns)}){where}"
    digest = hashlib.sha256(definition.encode()).hexdigest()[:8]
    name = identifier(f"{table.name}_inventory_{digest}")
    statement = _INDEX.format(name=quote(name), table=table.quoted, definition=definition)
    return Index(name=name, statement=statement.strip())


def _conditions(table: Table) -> list[str]:
    """Return the conditions of rows that count; the partial index needs the same text."""
    if not table.soft_delete_field:
        return ["true"]
    field = literal(table.soft_delete_field)
    return [f"(({quote(RAW_DATA)} -> {field}) = 'true') IS NOT TRUE"]


def _time(table: Table) -> str:
    # From the object itself: virtual columns cannot be indexed, and a column may not exist.
    return typed_value(table.time_range_field, "integer")[1]


def _id(table: Table) -> str:
    of_key = [quote(column.name) for column in table.key if column.path == ("id",)]
    return of_key[0] if of_key else _text("id")


def _text(field: str) -> str:
    return f"({quote(RAW_DATA)} ->> {literal(field)})"
