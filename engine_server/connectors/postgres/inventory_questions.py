"""The questions about what a table holds, in SQL, and the index that each of them goes by."""

import hashlib
from dataclasses import dataclass
from importlib.resources import files

from engine_server.connectors.postgres.tables import (
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
_HELD = _SQL.joinpath("inventory_held.sql").read_text()
_BELONGING = _SQL.joinpath("inventory_belonging.sql").read_text()
_STAMPED = _SQL.joinpath("inventory_stamped.sql").read_text()
_INDEX = _SQL.joinpath("inventory_index.sql").read_text()

# Ids that are asked for together: a few hundred kilobytes.
PAGE_ROWS = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """An index that spares a question reading the whole table.

    Attributes:
        name: Unquoted. Another definition has another name.
        statement: Makes it, and keeps others from writing meanwhile.
    """

    name: str
    statement: str

    @property
    def concurrent_statement(self) -> str:
        """Makes it while others write; in no transaction."""
        return self.statement.replace("CREATE INDEX", "CREATE INDEX CONCURRENTLY", 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A statement with its arguments."""

    statement: str
    arguments: tuple[object, ...]


def time_index(table: Table) -> Index:
    """What ``held`` goes by where it has bounds: of the rows that count alone."""
    return _index(table, f"({_time(table)})", f" WHERE {' AND '.join(_conditions(table))}")


def owner_index(table: Table, field: str) -> Index:
    """What ``belonging`` goes by.

    It is of all rows: of the values in part of them, Postgres makes no use when it plans, and would
    rather read the whole table than look a hundred owners up.
    """
    return _index(table, f"({_text(field)})", "")


def held(
    table: Table, account_id: str, gte: int | None, lt: int | None, after: tuple[int, str] | None
) -> Question:
    """Asks for ids: rows of ``id`` and ``time``, newest first, at most ``PAGE_ROWS`` of them.

    Args:
        table: Where to look.
        account_id: Whose rows; empty for everybody's.
        gte: Inclusive lower bound of their time; None is no bound.
        lt: Exclusive upper bound; without any bound rows without a time count, too, and none tells.
        after: The time and id of the last row that was answered; None at the beginning.
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
    statement = _HELD.format(
        columns=f"{row_id} AS id, {time} AS time",
        table=table.quoted,
        conditions=" AND ".join(conditions),
        order=f"{time} DESC, {row_id} DESC" if has_bounds else row_id,
        limit=PAGE_ROWS,
    )
    return Question(statement=statement, arguments=tuple(arguments))


def belonging(table: Table, account_id: str, field: str, owners: list[str]) -> Question:
    """Asks for the rows whose ``field`` is one of ``owners``: rows of ``owner`` and ``id``."""
    conditions = [f"{_text(field)} = ANY($1::text[])", *_conditions(table)]
    arguments: list[object] = [owners]
    if account_id:
        arguments.append(account_id)
        conditions.append(f"{quote(ACCOUNT_ID)} = $2::text")
    statement = _BELONGING.format(
        owner=_text(field),
        id=_id(table),
        table=table.quoted,
        conditions=" AND ".join(conditions),
    )
    return Question(statement=statement, arguments=tuple(arguments))


def stamped(table: Table, account_id: str, ids: list[str]) -> Question:
    """Asks how new the rows of these ids are: rows of ``id`` and ``stamp``, by the primary key."""
    conditions = [f"{_id(table)} = ANY($1::text[])", f"{quote(UPDATED_AT)} IS NOT NULL"]
    arguments: list[object] = [ids]
    if account_id:
        arguments.append(account_id)
        conditions.append(f"{quote(ACCOUNT_ID)} = $2::text")
    statement = _STAMPED.format(
        id=_id(table),
        stamp=quote(UPDATED_AT),
        table=table.quoted,
        conditions=" AND ".join(conditions),
    )
    return Question(statement=statement, arguments=tuple(arguments))


def _index(table: Table, first: str, where: str) -> Index:
    """An index by an expression, then by id; within each account where the key tells them apart."""
    columns = [first, _id(table)]
    if any(column.name == ACCOUNT_ID for column in table.key):
        columns.insert(0, quote(ACCOUNT_ID))
    definition = f"({', '.join(columns)}){where}"
    digest = hashlib.sha256(definition.encode()).hexdigest()[:8]
    name = identifier(f"{table.name}_inventory_{digest}")
    statement = _INDEX.format(name=quote(name), table=table.quoted, definition=definition)
    return Index(name=name, statement=statement.strip())


def _conditions(table: Table) -> list[str]:
    """What holds for every row that counts: an index has it word for word, or is not used."""
    if not table.soft_delete_field:
        return ["true"]
    field = literal(table.soft_delete_field)
    return [f"(({quote(RAW_DATA)} -> {field}) = 'true') IS NOT TRUE"]


def _time(table: Table) -> str:
    # Of the object itself, as virtual columns cannot be indexed, and there may be no column at all.
    return typed_value(table.time_range_field, "integer")[1]


def _id(table: Table) -> str:
    of_key = [quote(column.name) for column in table.key if column.path == ("id",)]
    return of_key[0] if of_key else _text("id")


def _text(field: str) -> str:
    return f"({quote(RAW_DATA)} ->> {literal(field)})"
